"""How runs end: each ending with its own exit code, a diagnosis, and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest

from resilient.drill.faults import KillSupervisor, KillWorker, Preempt, StopWorker, flip_bit
from resilient.errors import ExitCode
from resilient.protocol.scratch import Scratch
from resilient.snapshot import catalog
from tests.mounts import fill
from tests.run.harness import RunCase, Workspace


def test_error_before_any_progress_is_not_retried(workspace: Workspace) -> None:
    script = workspace.directory / "broken.py"
    script.write_text("import resilient\nimport a_module_that_does_not_exist\n")
    case = workspace.run("broken", f"worker.script={script}")
    assert case.finish() == ExitCode.WORKER_ERROR
    assert len(case.journal("LaunchRound")) == 1
    assert "No module named 'a_module_that_does_not_exist'" in case.output()
    assert "Traceback" in case.paths.log(0, 0).read_text()


def test_the_same_error_at_the_same_step_stops_early_and_a_corrected_script_resumes(
    workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("bug", "train.raise_at=23", "run.allow_drift=true")
    assert case.finish() == ExitCode.CRASH_LOOP
    assert len(case.journal("LaunchRound")) == 3
    assert "a bug in step 23" in case.output()
    assert "after step 22" in case.output()
    assert case.finish("train.raise_at=0") == 0, case.output()
    assert case.journal("LaunchRound")[3]["step"] == 22
    case.assert_equal_to(reference)


def test_a_passing_error_is_cured_by_one_relaunch(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("flaky", "train.raise_once_at=23")
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["application error"]
    case.assert_equal_to(reference)


def test_exit_0_is_not_taken_for_finished(workspace: Workspace) -> None:
    case = workspace.run("quiet", "train.stop_quietly_at=20")
    assert case.finish() == ExitCode.CRASH_LOOP
    assert "exited before the run was finished" in case.output()


def test_finished_run_is_not_started_again(workspace: Workspace, reference: RunCase) -> None:
    rounds = len(reference.journal("LaunchRound"))
    assert reference.finish() == 0
    assert "finished already" in reference.output()
    assert len(reference.journal("LaunchRound")) == rounds


def test_more_steps_resume_a_finished_run(workspace: Workspace) -> None:
    case = workspace.run("longer", steps=20)
    assert case.finish() == 0
    assert case.finish("train.steps=30", "run.allow_drift=true") == 0, case.output()
    assert len(case.losses()) == 30
    assert case.journal("LaunchRound")[1]["step"] == 20
    for known in (case.journal("RunOpened")[1], case.journal("SnapshotRestored")[0]):  # journal and manifest
        assert {"startup", "step"} <= set(cast("dict[str, float]", known["durations"]))


def test_hang_is_killed_and_relaunched(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("hang", "train.hang_at=25", "hang.min_seconds=2")
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["hang"]
    case.assert_equal_to(reference)


def test_stopped_process_is_a_hang(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("stopped", "hang.min_seconds=2")
    running = case.start().wait_for_step(25)
    StopWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["hang"]
    case.assert_equal_to(reference)


def test_preempted_worker_that_reaches_no_step_boundary_is_killed_and_its_last_image_saved(
    workspace: Workspace, reference: RunCase
) -> None:
    case = workspace.run("stuck", "stop.grace_seconds=4")
    running = case.start().wait_for_step(25)
    StopWorker().inject(running.target)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE
    assert "no step boundary within the grace" in case.output()
    assert max(catalog.committed_steps(case.paths.snapshots)) >= 24
    assert case.finish() == 0
    case.assert_equal_to(reference)


def test_preempted_during_start_up(workspace: Workspace) -> None:
    case = workspace.run("early")
    running = case.start()
    while not case.paths.status.exists():
        assert running.process.poll() is None
    Preempt().inject(running.target)
    assert running.wait() in (ExitCode.REQUEUE, -signal.SIGTERM)
    assert case.finish() == 0


def test_interrupt_is_a_request_to_stop(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("interrupted")
    running = case.start().wait_for_step(25)
    running.process.send_signal(signal.SIGINT)
    assert running.wait() == ExitCode.TERMINATED
    assert case.finish() == 0
    case.assert_equal_to(reference)


def test_second_supervisor_is_refused_and_the_first_goes_on(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("contested", "train.step_seconds=0.2")
    first = case.start().wait_for_step(10)
    assert case.finish() == ExitCode.RUN_LOCKED
    assert f"owned by process {first.process.pid}" in case.output()
    assert first.wait() == 0
    case.assert_equal_to(reference)


def test_changed_configuration_is_refused_or_recorded(workspace: Workspace) -> None:
    case = workspace.run("drift")
    running = case.start().wait_for_step(10)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE
    # of 6, whatever is left of the epoch: 5 might leave one sample, of which batch norm can make nothing
    assert case.finish("train.batch_size=6") == ExitCode.CONFIG_DRIFT
    assert "train.batch_size: 4 → 6" in case.output()
    assert case.finish("train.batch_size=6", "run.allow_drift=true") == 0, case.output()
    assert "batch_size: 4" in (case.paths.root / "config-0001.yaml").read_text()
    assert "batch_size: 6" in case.paths.config.read_text()


def test_every_snapshot_corrupt_is_an_error_and_not_a_new_beginning(workspace: Workspace) -> None:
    case = workspace.run("all-corrupt")
    running = case.start().wait_for_step(25)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE
    steps = catalog.committed_steps(case.paths.snapshots)
    for step in steps:
        flip_bit(case.paths.snapshot(step) / "manifest.json", 100)
    assert case.finish() == ExitCode.NO_SNAPSHOT
    assert len(list(case.paths.snapshots.glob("*.corrupt"))) == len(steps)
    assert len(case.journal("LaunchRound")) == 1


def test_incomplete_snapshot_with_the_highest_number_is_never_chosen(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("incomplete")
    running = case.start().wait_for_step(25)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE
    fake = case.paths.snapshot(999)
    fake.mkdir()
    (fake / "rank-00000.safetensors").write_bytes(b"half of it")
    assert case.finish() == 0, case.output()
    case.assert_equal_to(reference)


def test_what_the_script_started_does_not_outlive_it(workspace: Workspace) -> None:
    case = workspace.run("daemons", "train.daemon=true")
    running = case.start().wait_for_step(10)
    daemons = [process for process in workspace.processes() if process.cmdline()[-1] == "daemon"]
    assert len(daemons) == 1
    KillWorker().inject(running.target)
    running.wait_for_step(20)
    assert not _alive(daemons[0])
    assert running.wait() == 0


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_read_only_run_directory(workspace: Workspace, read_only: Path) -> None:
    case = workspace.run("read-only", f"run.dir={read_only}")
    assert case.finish() == ExitCode.NOT_WRITABLE
    assert "cannot be written" in case.output()
    assert "run.dir=" in case.output()


def test_full_disk_neither_kills_training_nor_loses_the_state(
    workspace: Workspace, small_disk: Path, reference: RunCase
) -> None:
    case = workspace.run("full")
    (workspace.directory / "runs").symlink_to(small_disk)
    ballast = small_disk / "ballast"
    running = case.start().wait_for_step(12)
    with ballast.open("wb") as stream:
        stream.write(b"\0" * (_free_bytes(small_disk) - (64 << 10)))
    assert running.wait() == ExitCode.DISK_FULL, case.output()
    assert "could not be made durable" in case.output()
    assert "left the loop at step 60" in case.output(), "training went on to its end in memory"
    ballast.unlink()
    assert case.finish() == 0, case.output()
    assert case.journal("LaunchRound")[-1] == {"round": 1, "step": 60, "source": "memory"}
    case.assert_equal_to(reference)


def test_start_on_a_full_disk_is_no_bug_and_says_what_to_do(workspace: Workspace, small_disk: Path) -> None:
    case = workspace.run("no-start", steps=5)
    (workspace.directory / "runs").symlink_to(small_disk)
    ballast = fill(small_disk, 0)
    assert case.finish() == ExitCode.DISK_FULL, case.output()
    assert "free space in the run directory" in case.output()
    assert "bug" not in case.output()
    ballast.unlink()
    assert case.finish() == 0, case.output()


def _free_bytes(path: Path) -> int:
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 MiB."""
    yield from _mounted(tmp_path / "small", "size=64m")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that nobody can write to, not even root."""
    yield from _mounted(tmp_path / "read-only", "ro,size=1m")


def _mounted(path: Path, options: str) -> Iterator[Path]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a filesystem: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_module_that_cannot_be_preloaded_stops_with_its_name(workspace: Workspace) -> None:
    case = workspace.run("preload", "worker.preload=[a_module_nobody_has]")
    assert case.finish() == ExitCode.WORKER_ERROR
    assert "No module named 'a_module_nobody_has'" in case.output()


def test_deleted_run_directory_means_a_new_beginning_whatever_memory_still_holds(workspace: Workspace) -> None:
    case = workspace.run("deleted")
    running = case.start().wait_for_step(15)
    KillSupervisor().inject(running.target)
    running.wait()
    scratch = Scratch(case.paths.identity()).directory
    assert scratch.is_dir()
    shutil.rmtree(case.paths.root)
    assert case.finish() == 0, case.output()
    assert case.journal("LaunchRound") == [{"round": 0, "step": None, "source": None}]
    assert not scratch.exists()


def test_shared_memory_removed_behind_our_back_costs_nothing(workspace: Workspace, reference: RunCase) -> None:
    """As systemd's RemoveIPC does when a user logs out."""
    case = workspace.run("unlinked", "snapshot.every_steps=50")
    running = case.start().wait_for_step(15)
    shutil.rmtree(Path("/dev/shm") / case.paths.memory_name)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    launched = case.journal("LaunchRound")[1]
    assert launched["source"] == "memory"
    case.assert_equal_to(reference)
