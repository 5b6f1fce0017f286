"""Worlds for the checks, and the doctor as people start it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resilient.doctor.check import Check
from resilient.doctor.examination import examine
from resilient.doctor.finding import Finding
from resilient.doctor.registry import CHECKS
from resilient.doctor.subject import Subject
from resilient.doctor.world import World
from resilient.policy.state import StopSettings
from resilient.protocol.paths import RunPaths
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings, SnapshotSettings
from resilient.slurm.settings import SlurmSettings
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.settings import WorkerSettings


def subject(
    directory: Path,
    worker: WorkerSettings | None = None,
    *,
    snapshot: SnapshotSettings | None = None,
    remote: RemoteSettings | None = None,
    stop: StopSettings | None = None,
    slurm: SlurmSettings | None = None,
) -> Subject:
    return Subject(
        RunPaths.of(directory, "run"),
        worker or WorkerSettings(script="train.py"),
        snapshot or SnapshotSettings(),
        RetentionSettings(),
        remote or RemoteSettings(),
        stop or StopSettings(),
        slurm or SlurmSettings(),
    )


def with_state(examined: Subject, size: int) -> Subject:
    """With a durable snapshot of so many bytes in its run directory."""
    examined.paths.snapshots.mkdir(parents=True)
    commit(Storage(), examined.paths.snapshots, Draft("run", 5, 0, {0: memoryview(bytes(size))}))
    return examined


def check(name: str) -> Check:
    (found,) = [each for each in CHECKS if each.name == name]
    return found


def look(check: Check, world: World) -> Finding:
    """The finding of a check, in a process of its own."""
    (result,) = examine([check], world)
    assert result.check is check
    return result.finding


def doctor(*arguments: str, cwd: Path, before: Sequence[str] = (), **options: Any) -> tuple[int, dict[str, Any]]:
    """``resilient doctor --json``: its exit code, and the findings by check.

    :param before: the beginning of the command line that starts it.
    """
    command = [*before, sys.executable, "-m", "resilient.cli", "doctor", "--json", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)
    assert done.stdout, done.stderr
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)["findings"]}
