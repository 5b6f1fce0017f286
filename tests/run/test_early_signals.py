"""Signals that announce the end of a job and come before the supervisor is up, or to everything of it at once."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from resilient.errors import ExitCode
from resilient.protocol import job_signals
from resilient.supervisor.status import Status
from tests.run.harness import RunCase, Workspace


def _is_blocked(pid: int, number: int) -> bool:
    found = re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def test_a_preemption_while_python_is_still_importing_waits_until_it_can_be_heeded(
    workspace: Workspace, reference: RunCase
) -> None:
    case = replace(workspace.run("early"), program=("-m", "resilient"))
    running = case.start()
    while not _is_blocked(running.process.pid, signal.SIGTERM):
        assert running.process.poll() is None, case.output()
    running.process.send_signal(signal.SIGTERM)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    status = Status.read(case.paths.status)
    assert status is not None
    assert status.exit_code == ExitCode.REQUEUE
    assert case.finish() == ExitCode.FINISHED, case.output()
    case.assert_equal_to(reference)


@pytest.mark.parametrize("number", job_signals.ANNOUNCING, ids=lambda number: number.name)
def test_a_signal_to_every_process_of_the_job_costs_no_step(
    workspace: Workspace, reference: RunCase, number: signal.Signals
) -> None:
    case = workspace.run(f"all-{number.name}", "train.workers=2")
    running = case.start().wait_for_step(15)
    supervisor = psutil.Process(running.process.pid)
    for process in (*supervisor.children(recursive=True), supervisor):  # the supervisor last: the worst order
        process.send_signal(number)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.incidents() == ["preemption"], case.output()
    assert case.finish() == ExitCode.FINISHED, case.output()
    case.assert_equal_to(reference)
