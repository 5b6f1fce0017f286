"""The same script without a supervisor."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from resilient.drill.faults import flip_bit
from resilient.protocol.metrics_log import series
from resilient.snapshot import catalog
from tests.run.harness import SCRIPT, RunCase, Workspace


def start(workspace: Workspace, run_id: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), run_id]
    return subprocess.Popen(
        command, env=workspace.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_processes_of_another_launcher_are_told_what_to_do_instead(workspace: Workspace) -> None:
    command, environment = [sys.executable, str(SCRIPT), "plain"], {**workspace.environment(), "WORLD_SIZE": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "UsageError" in done.stderr
    assert "worker.ranks=2" in done.stderr
    assert not (workspace.directory / "runs").exists()


def wait_for_step(case: RunCase, step: int) -> None:
    while max(series(case.paths.metrics, "loss"), default=0) < step:
        pass


def test_plain_python_gives_the_same_losses_as_the_supervised_run(workspace: Workspace, reference: RunCase) -> None:
    process = start(workspace, "plain")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    workspace.run("plain").assert_equal_to(reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_signal_and_the_same_command_again(
    workspace: Workspace, reference: RunCase, number: signal.Signals, code: int
) -> None:
    case = workspace.run("plain")
    process = start(workspace, "plain")
    wait_for_step(case, 25)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    durable = max(catalog.committed_steps(case.paths.snapshots))
    assert durable == 20 if number is signal.SIGKILL else durable >= 25
    process = start(workspace, "plain")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"resumed plain after step {durable}" in output
    case.assert_equal_to(reference)


def test_corrupt_snapshot_falls_back(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("plain")
    process = start(workspace, "plain")
    wait_for_step(case, 25)
    process.kill()
    process.wait()
    flip_bit(case.paths.snapshot(20) / "rank-00000.safetensors", 5000)
    output, _ = start(workspace, "plain").communicate(timeout=60)
    assert "checksum mismatch" in output
    assert "resumed plain after step 10" in output
    case.assert_equal_to(reference)
