"""Dumps of real processes: who answers, who cannot, and that nobody is waited for in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient.policy.culprit import Condition, RankAccount
from resilient.protocol.stack_dumps import DUMP_SIGNAL
from resilient.supervisor import kernel_view, processes
from resilient.supervisor.stacks import StackDump, Suspect, find_py_spy

_PREPARED = "from resilient.worker.stacks import answer_with_stacks; answer_with_stacks()\n"
_SLEEPS = """
import time
def sleeps_for_ever():
    print("ready", flush=True)
    time.sleep(600)
sleeps_for_ever()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program of Python; returns when it has said that it is ready."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, *, prepared: bool = True) -> subprocess.Popen[str]:
        script = tmp_path / f"program-{len(started)}.py"
        script.write_text((_PREPARED if prepared else "") + program)
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _suspects(directory: Path, *processes: subprocess.Popen[str], launched: bool = True) -> list[Suspect]:
    return [
        Suspect(rank, process.pid, launched, f"rank {rank}: silent", directory / "stacks" / f"{rank}.txt")
        for rank, process in enumerate(processes)
    ]


def _finish(dump: StackDump) -> tuple[RankAccount, ...]:
    """The answer, for which no clock has to move on."""
    deadline = time.monotonic() + 30
    while (accounts := dump.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return accounts


def test_a_loop_in_c_that_keeps_the_interpreter_answers_all_the_same(start: Start, tmp_path: Path) -> None:
    process = start(
        'import re\ndef a_slow_match():\n    print("ready", flush=True)\n    re.match("(a+)+$", "a" * 60 + "b")\n'
        "a_slow_match()\n"
    )
    suspects = _suspects(tmp_path, process)
    (account,) = _finish(StackDump(suspects, by=1.0, clock=Clock()))
    assert (account.condition, account.waits) == (Condition.RUNNING, False)
    assert "a_slow_match (program-0.py:" in account.where
    text = suspects[0].path.read_text()
    assert text.startswith("rank 0: silent\n")
    assert "in a_slow_match" in text
    assert process.poll() is None, "it is left alive"


def test_a_stopped_process_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    process = start(_SLEEPS)
    process.send_signal(signal.SIGSTOP)
    while kernel_view.condition(process.pid) is not Condition.STOPPED:
        pass
    suspects = _suspects(tmp_path, process)
    assert StackDump(suspects, by=1.0, clock=Clock()).poll() == (RankAccount(0, Condition.STOPPED),)
    text = suspects[0].path.read_text()
    assert "stopped by a signal (SIGSTOP)" in text
    assert "T (stopped)" in text
    assert "cannot be asked" in text


def test_py_spy_reads_the_stack_of_a_stopped_process_from_outside(start: Start, tmp_path: Path) -> None:
    process = start(_SLEEPS, prepared=False)
    process.send_signal(signal.SIGSTOP)
    while kernel_view.condition(process.pid) is not Condition.STOPPED:
        pass
    py_spy = find_py_spy()
    assert py_spy is not None, "it is one of the packages for development"
    (account,) = _finish(StackDump(_suspects(tmp_path, process), by=1.0, clock=Clock(), py_spy=py_spy))
    assert account.condition is Condition.STOPPED
    assert account.where.startswith("sleeps_for_ever (program-0.py:")
    assert kernel_view.condition(process.pid) is Condition.STOPPED


def test_py_spy_sees_the_c_code_of_a_worker_that_runs(start: Start, tmp_path: Path) -> None:
    suspects = _suspects(tmp_path, start(_SLEEPS))
    _finish(StackDump(suspects, by=1.0, clock=Clock(), py_spy=find_py_spy()))
    assert "nanosleep" in suspects[0].path.read_text().split("py-spy")[1]


def test_forked_processes_answer_for_themselves(start: Start, tmp_path: Path) -> None:
    process = start(
        "import os, time\nr, w = os.pipe()\n"
        'def child():\n    os.write(w, b"1")\n    time.sleep(600)\n'
        'def parent():\n    os.read(r, 1)\n    print("ready", flush=True)\n    time.sleep(600)\n'
        "parent() if os.fork() else child()\n"
    )
    suspects = _suspects(tmp_path, process)
    (account,) = _finish(StackDump(suspects, by=1.0, clock=Clock()))
    (child,) = processes.tree(process.pid, threads=True)[1:]
    own, forked = suspects[0].path.read_text().split(f"== process {child}")
    assert "in parent" in own
    assert "in child" not in own
    assert "in child" in forked
    assert "in parent" not in forked
    assert "parent" in account.where
    os.kill(child, signal.SIGKILL)


def test_a_process_that_has_no_handler_is_not_ended_by_the_question(start: Start, tmp_path: Path) -> None:
    process = start(
        'import subprocess\nsleeper = subprocess.Popen(["sleep", "600"])\nprint("ready", flush=True)\nsleeper.wait()\n'
    )
    (sleeper,) = processes.tree(process.pid, threads=True)[1:]
    (account,) = _finish(StackDump(_suspects(tmp_path, process), by=1.0, clock=Clock()))
    assert account.where
    assert kernel_view.condition(sleeper) is Condition.RUNNING
    os.kill(sleeper, signal.SIGKILL)


def test_a_process_that_has_given_up_its_handler_is_not_asked(start: Start, tmp_path: Path) -> None:
    process = start(f"import faulthandler\nfaulthandler.unregister({int(DUMP_SIGNAL)})\n{_SLEEPS}")
    assert _finish(StackDump(_suspects(tmp_path, process), by=1.0, clock=Clock())) == (RankAccount(0),)
    assert process.poll() is None
    assert kernel_view.condition(process.pid) is Condition.RUNNING


def test_who_does_not_answer_is_given_up_in_time_and_others_are_not_lost(start: Start, tmp_path: Path) -> None:
    deaf = start(f"import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {{{int(DUMP_SIGNAL)}}})\n{_SLEEPS}")
    clock, suspects = Clock(), _suspects(tmp_path, deaf, start(_SLEEPS))
    dump = StackDump(suspects, by=2.0, clock=clock)
    for _ in range(200):
        assert dump.poll() is None
        time.sleep(0.001)
    clock.now = 2.0
    accounts = dump.poll()
    assert accounts is not None
    assert accounts[0] == RankAccount(0)
    assert "sleeps_for_ever" in accounts[1].where
    assert "has not answered" in suspects[0].path.read_text()


def test_a_dump_that_is_cut_short_leaves_what_it_has_and_nobody_running(start: Start, tmp_path: Path) -> None:
    slow = tmp_path / "py-spy"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    suspects = _suspects(tmp_path, start(_SLEEPS))
    dump = StackDump(suspects, by=2.0, clock=Clock(), py_spy=str(slow))
    assert dump.poll() is None
    dump.close()
    assert suspects[0].path.exists()
    commands = [kernel_view.command(pid) for pid in processes.tree(os.getpid(), threads=True)[1:]]
    assert not [command for command in commands if command.startswith("sleep")]


def test_the_second_dump_of_a_process_has_only_what_is_new(start: Start, tmp_path: Path) -> None:
    process = start(_SLEEPS)
    for _ in range(2):
        suspects = _suspects(tmp_path, process)
        _finish(StackDump(suspects, by=1.0, clock=Clock()))
        assert suspects[0].path.read_text().count("in sleeps_for_ever") == 1


def test_a_worker_that_was_never_forked_is_told_with_whoever_was_to_fork_it(start: Start, tmp_path: Path) -> None:
    (account,) = _finish(StackDump(_suspects(tmp_path, start(_SLEEPS), launched=False), by=1.0, clock=Clock()))
    assert account.condition is Condition.MISSING
    assert account.where.startswith("the process that is to fork it: sleeps_for_ever (program-0.py:")


def test_a_process_that_is_gone_says_nothing_and_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    process = start(_SLEEPS)
    process.kill()
    process.wait()
    suspects = _suspects(tmp_path, process)
    assert StackDump(suspects, by=1.0, clock=Clock()).poll() == (RankAccount(0, Condition.MISSING),)


def test_a_disk_that_takes_nothing_does_not_keep_the_answer_back(start: Start, tmp_path: Path) -> None:
    (tmp_path / "stacks").write_text("no directory")
    (account,) = _finish(StackDump(_suspects(tmp_path, start(_SLEEPS)), by=1.0, clock=Clock()))
    assert "sleeps_for_ever" in account.where
