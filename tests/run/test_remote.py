"""Real runs with a remote tier on a real S3 server: the machine is lost, copies are damaged, the network goes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient.drill.faults import KillSupervisor, Preempt, flip_bit
from resilient.errors import ExitCode
from resilient.protocol.names import image_name
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.scratch import Scratch
from resilient.snapshot import catalog
from resilient.snapshot.bucket import Bucket
from resilient.snapshot.bucket_s3 import S3Bucket
from resilient.snapshot.compare import first_difference
from resilient.snapshot.remote import RemoteTier, current
from tests.buckets import bare, make_s3, s3_server
from tests.run.conftest import shared_memory
from tests.run.harness import RunCase, Running, Workspace

SLOW = "train.step_seconds=0.05"


@pytest.fixture
def remote(s3_endpoint: str) -> RemoteSettings:
    return make_s3(s3_endpoint)


def overrides(remote: RemoteSettings) -> list[str]:
    options = [f"+remote.options.{name}={value}" for name, value in remote.options.items()]
    return [f"remote.url={remote.url}", f"remote.attempts={remote.attempts}", *options]


def wait_until(condition: Callable[[], Any], running: Running, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, running.case.output()
        assert running.process.poll() is None, running.case.output()
        time.sleep(0.02)
    return found


def remote_steps(remote: RemoteSettings, case: RunCase) -> list[int]:
    return list(current(RemoteTier(bare(remote, case.run_id)).items()))


def lose_the_machine(workspace: Workspace, running: Running) -> None:
    """SIGKILL to everything of the run, and nothing of it is left, neither on disk nor in memory."""
    KillSupervisor().inject(running.target)
    running.process.wait()
    assert not workspace.wait_until_alone()
    Scratch(running.case.paths.identity()).remove()
    for path in (*shared_memory(workspace), running.case.paths.root):
        shutil.rmtree(path)


def launches(case: RunCase) -> list[tuple[int | None, str | None]]:
    return [(entry["step"], entry["source"]) for entry in case.journal("LaunchRound")]  # type: ignore[misc]


def test_a_bare_machine_resumes_from_the_remote_tier_alone(
    workspace: Workspace, reference: RunCase, remote: RemoteSettings
) -> None:
    case = workspace.run("bare", "train.step_seconds=0.25", *overrides(remote))
    running = case.start()
    wait_until(lambda: max(remote_steps(remote, case), default=0) >= 20, running)
    lose_the_machine(workspace, running)
    newest = max(remote_steps(remote, case))
    assert newest < 60
    assert case.finish() == 0, case.output()
    assert launches(case) == [(newest, "remote")]
    expected = {step: loss for step, loss in reference.losses().items() if step > newest}
    assert case.losses() == expected
    assert not case.conflicting_losses()
    assert first_difference(case.image(60), reference.image(60)) is None
    assert 60 in remote_steps(remote, case), "a run is not finished before its last snapshot is there"


def test_a_second_directory_is_a_remote_tier_too(workspace: Workspace, reference: RunCase) -> None:
    place = workspace.directory / "other disk"
    place.mkdir()
    remote = RemoteSettings(url=str(place))
    case = workspace.run("second", SLOW, f"remote.url='{place}'", "remote.retention.last=2")
    running = case.start()
    wait_until(lambda: max(remote_steps(remote, case), default=0) >= 20, running)
    lose_the_machine(workspace, running)
    assert case.finish() == 0, case.output()
    assert launches(case)[0][1] == "remote"
    assert remote_steps(remote, case)[-1] == 60
    assert remote_steps(remote, case)[-2:] == [50, 60]
    assert len(remote_steps(remote, case)) <= 3, "the two asked for, and one that a rollback may need"


def test_a_damaged_local_snapshot_is_restored_from_the_remote_copy_of_the_same_step(
    workspace: Workspace, reference: RunCase, remote: RemoteSettings
) -> None:
    case = workspace.run("damaged", SLOW, *overrides(remote))
    running = case.start().wait_for_step(25)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    newest = max(catalog.committed_steps(case.paths.snapshots))
    assert max(remote_steps(remote, case)) == newest, "what a preempted run leaves is uploaded within the grace"
    flip_bit(case.paths.snapshot(newest) / image_name(0), offset=5000)
    assert case.finish() == 0, case.output()
    assert launches(case)[1] == (newest, "remote")
    assert (case.paths.snapshots / f"{case.paths.snapshot(newest).name}.corrupt").is_dir()
    case.assert_equal_to(reference)


def test_a_damaged_remote_copy_is_marked_and_an_older_one_is_taken(
    workspace: Workspace, reference: RunCase, remote: RemoteSettings
) -> None:
    case = workspace.run("marked", SLOW, *overrides(remote))
    running = case.start()
    wait_until(lambda: len(remote_steps(remote, case)) >= 2, running)
    lose_the_machine(workspace, running)
    bucket = bare(remote, case.run_id)
    *_, older, newest = current(RemoteTier(bucket).items()).values()
    damage(bucket, f"{newest.name}/{image_name(0)}")
    assert case.finish() == 0, case.output()
    assert launches(case) == [(older.step, "remote")]
    assert case.incidents() == ["bad snapshot"]
    assert f"{newest.name}/corrupt.json" in bucket.sizes()
    assert case.losses() == {step: loss for step, loss in reference.losses().items() if step > older.step}


def damage(bucket: Bucket, key: str) -> None:
    data = bytearray(bucket.sizes()[key])
    bucket.read(key, 0, memoryview(data))
    data[len(data) // 2] ^= 4
    bucket.put(key, bytes(data))


def test_a_remote_tier_that_goes_away_does_not_stop_the_training(workspace: Workspace, reference: RunCase) -> None:
    port = 0
    with s3_server() as endpoint:
        port = int(endpoint.rpartition(":")[2])
        remote = make_s3(endpoint)
        settings = ["train.step_seconds=0.2", *overrides(remote)]  # it goes on for long after the first upload
        case = workspace.run("cut-off", *settings)
        running = case.start()
        wait_until(lambda: remote_steps(remote, case), running)
    assert running.wait() == ExitCode.DISK_FULL, case.output()
    case.assert_equal_to(reference)
    assert "NOT in the remote tier" in case.output()
    assert "tries again to upload it" in case.output()
    assert case.finish() == ExitCode.DISK_FULL, "what is on this machine can be resumed from without the remote tier"
    with s3_server(port):
        assert case.finish() == 0, case.output()
        assert 60 in remote_steps(remote, case)
    assert not case.conflicting_losses()


def test_without_knowing_what_lies_there_nothing_is_started_over(workspace: Workspace, remote: RemoteSettings) -> None:
    elsewhere = RemoteSettings(url="s3://there-is-no-such-bucket/x", options=remote.options, attempts=1)
    case = workspace.run("unknown", *overrides(elsewhere))
    assert case.finish() == ExitCode.REMOTE_UNAVAILABLE, case.output()
    assert not launches(case)
    assert "Nothing was started" in case.output()


def test_an_upload_cut_by_a_preemption_is_taken_up_at_the_next_start(
    workspace: Workspace, remote: RemoteSettings
) -> None:
    case = workspace.run(
        "cut",
        SLOW,
        *overrides(remote),
        "train.ballast_mb=140",
        "snapshot.memory_every_steps=20",
        "snapshot.every_steps=20",
        "remote.every_steps=1000",  # so that the last one is all there is to upload
    )
    running = case.start("remote.bytes_per_second=8e6", "stop.grace_seconds=12").wait_for_step(3)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    newest = max(catalog.committed_steps(case.paths.snapshots))
    assert "no time to upload" in case.output()
    assert remote_steps(remote, case) == []
    there = bytes_on_their_way(remote, case)
    assert there > 0, "some parts have arrived"
    assert case.finish("run.allow_drift=true") == 0, case.output()
    uploads = {entry["step"]: entry for entry in case.journal("Uploaded")}
    assert uploads[newest]["sent"] == uploads[newest]["bytes"] - there  # type: ignore[operator]
    assert remote_steps(remote, case) == [newest, 60]
    assert bytes_on_their_way(remote, case) == 0


def bytes_on_their_way(remote: RemoteSettings, case: RunCase) -> int:
    """Bytes of all parts of uploads that are not finished."""
    bucket, total = bare(remote, case.run_id), 0
    assert isinstance(bucket, S3Bucket)
    for entry in bucket.call("list_multipart_uploads", Prefix="").get("Uploads", ()):
        parts = bucket.call("list_parts", Key=entry["Key"], UploadId=entry["UploadId"])
        total += sum(part["Size"] for part in parts.get("Parts", ()))
    return total
