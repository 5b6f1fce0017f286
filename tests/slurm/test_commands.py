from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from resilient.slurm.commands import Commands


def test_an_answer_is_what_was_printed_in_a_language_and_format_that_we_read() -> None:
    commands = Commands(60.0, environ={**os.environ, "LC_ALL": "de_DE", "SLURM_TIME_FORMAT": "relative"})
    answer = commands.call("sh", "-c", "echo $LC_ALL $SLURM_TIME_FORMAT")
    assert answer.output == "C standard\n"
    assert not answer.problem


def test_a_refusal_is_told_in_the_commands_own_words() -> None:
    answer = Commands(60.0).call("sh", "-c", "echo Invalid job id >&2; exit 1")
    assert "Invalid job id" in answer.problem
    assert not answer.absent


def test_a_command_that_is_not_there_and_one_that_may_not_be_run(tmp_path: Path) -> None:
    assert Commands(60.0).call("no-such-command-of-slurm").absent
    refused = tmp_path / "scontrol"
    refused.write_text("")
    answer = Commands(60.0).call(str(refused))
    assert "cannot be started" in answer.problem
    assert not answer.absent


def test_a_controller_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    now = [0.0]
    commands = Commands(10.0, clock=lambda: now[0], sleep=lambda _: now.__setitem__(0, now[0] + 1.0))
    answer = commands.call("sh", "-c", f"echo $$ > {tmp_path / 'pid'}; exec sleep 600")
    assert "did not answer in time" in answer.problem
    assert now[0] == 10.0


def test_a_call_does_not_make_anybody_wait(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    call = Commands(60.0, clock=lambda: 0.0).begin("sh", "-c", f"cat {gate}")
    assert call.poll(1.0) is None
    gate.write_text("open")
    while (answer := call.poll(2.0)) is None:
        pass
    assert answer.output == "open"
    assert call.poll(3.0) is answer


def test_what_is_sent_to_the_whole_job_does_not_end_a_command() -> None:
    script = (
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGUSR1); print('on')"
    )
    assert Commands(60.0).call(sys.executable, "-c", script).output == "on\n"
    assert not {signal.SIGTERM, signal.SIGUSR1} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
