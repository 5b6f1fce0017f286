"""``resilient drill`` as a user types it, on the small training script."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resilient.errors import ExitCode
from resilient.protocol.paths import RunPaths
from tests.run.harness import TIMEOUT, RunCase, Workspace


def start(workspace: Workspace, *words: str) -> subprocess.Popen[str]:
    conf = workspace.directory / "conf" / "small.yaml"
    return subprocess.Popen(
        [sys.executable, "-m", "resilient.cli", "drill", f"conf={conf}", "hang.min_seconds=1", *words],
        cwd=workspace.directory,
        env=workspace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def drill(workspace: Workspace, *words: str) -> tuple[int, Any, str]:
    """Exit code, what it says as JSON, and what it says meanwhile."""
    process = start(workspace, "--json", *words)
    out, err = process.communicate(timeout=2 * TIMEOUT)  # several runs, one after the other
    return process.returncode, json.loads(out) if out else None, err


def scratch(workspace: Workspace) -> list[Path]:
    return list((workspace.directory / "runs").glob("drill-*"))


def by_name(drills: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {found["fault"]: found for found in drills}


def test_recovered_from_every_one_and_bit_equal(workspace: Workspace, reference: RunCase) -> None:
    faults = "fault=kill,stop,disk_full,corrupt_snapshot,preempt"
    code, body, err = drill(workspace, faults, f"--reference={reference.paths.root}")
    assert code == 0, err
    assert body["passed"]
    found = by_name(body["drills"])
    assert list(found) == ["kill", "stop", "disk_full", "corrupt_snapshot", "preempt"]
    assert all(one["same"] == "yes" for one in found.values())
    noticed = {name: one["timeline"]["noticed_as"].partition(":")[0] for name, one in found.items()}
    assert noticed["kill"] == "killed"
    assert noticed["stop"] == "hang"
    assert noticed["preempt"] == "preemption"
    assert "disk is full" in found["disk_full"]["timeline"]["noticed_as"]
    assert "bad snapshot" in found["corrupt_snapshot"]["timeline"]["noticed_as"]
    assert found["disk_full"]["exit_codes"] == [ExitCode.DISK_FULL, 0]
    assert found["preempt"]["exit_codes"] == [ExitCode.REQUEUE, 0]
    times = found["kill"]["timeline"]
    assert 0 <= times["noticed"] <= times["launched"] <= times["recovered"]
    assert times["resumed_from"].endswith("(memory)")
    assert found["corrupt_snapshot"]["timeline"]["resumed_from"].endswith("(local)")
    assert scratch(workspace) == []


def test_damage_that_goes_unnoticed_fails_the_drill_and_is_kept_to_be_looked_at(
    workspace: Workspace, reference: RunCase
) -> None:
    code, body, err = drill(
        workspace, "fault=nan", "at=25", "divergence.enabled=false", f"--reference={reference.paths.root}"
    )
    found = by_name(body["drills"])
    assert code == ExitCode.DRILL_FAILED, err
    assert found["nan"]["timeline"]["noticed"] is None
    assert found["nan"]["reason"].startswith("NOT NOTICED")
    assert "in step 25" in found["nan"]["injected"]
    assert [path.name for path in scratch(workspace)] == [Path(body["directory"]).name]
    assert reference.losses()[60] != 0, "the run it was compared with is as it was"


def test_a_script_that_tells_nothing_is_killed_by_the_clock_and_nothing_is_claimed(workspace: Workspace) -> None:
    script = workspace.directory / "plain.py"
    script.write_text("import time\ntime.sleep(1.5)\n")
    code, body, err = drill(workspace, "fault=kill", f"worker.script={script}", "worker.finished_by=exit_code")
    (found,) = body["drills"]
    assert code == ExitCode.DRILL_FAILED
    assert found["exit_codes"] == [0], err
    assert found["same"] == "unknown"
    assert found["reason"].startswith("NOT PROVEN: recovered")
    assert found["timeline"]["noticed_as"] == "killed: SIGKILL"
    assert found["timeline"]["launched"] is not None


def test_interrupted_nothing_is_left(workspace: Workspace, reference: RunCase) -> None:
    process = start(workspace, "fault=stop", "at=5", "hang.min_seconds=60", f"--reference={reference.paths.root}")
    while not (made := [path / "stop-5" for path in scratch(workspace)]) or not (made[0] / "status.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    memory = Path("/dev/shm") / RunPaths(made[0]).memory_name
    while not memory.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == ExitCode.TERMINATED, err
    assert "stopped by request" in err
    assert not memory.exists()
    assert scratch(workspace) == []


def test_unknown_fault_and_broken_configuration_are_errors_of_configuration(workspace: Workspace) -> None:
    assert start(workspace, "fault=kil").wait(TIMEOUT) == ExitCode.CONFIG
    assert start(workspace, "fault=kill", "snapshot.evry_steps=3").wait(TIMEOUT) == ExitCode.CONFIG
    assert not (workspace.directory / "runs").exists()
