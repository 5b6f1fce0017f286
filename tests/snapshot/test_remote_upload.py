"""Uploads that are cut short at every single operation, and what is left of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.faults import flip_bit
from resilient.errors import RemoteUnavailable, SnapshotCorrupt
from resilient.protocol import names
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot.bucket import Bucket, Patience, PatientBucket, part_sizes
from resilient.snapshot.bucket_directory import FileUpload
from resilient.snapshot.bucket_s3 import MultipartUpload, S3Bucket
from resilient.snapshot.copies import read_files
from resilient.snapshot.direct import write_all
from resilient.snapshot.remote import RemoteTier, remote_name
from resilient.snapshot.upload import Pace, upload
from tests.buckets import Cut, FaultyBucket, When, bare, make_s3, make_snapshot

PARTS = 3
OPERATIONS = ("sizes", "begin", "send", "send", "send", "finish", "put", "sizes", "put")


def loads(bucket: Bucket, step: int, images: list[bytes]) -> bool:
    """Whether the snapshot of ``step`` is there with these bytes."""
    tier = RemoteTier(bucket)
    found = [item for item in tier.items() if item.step == step and item.loadable]
    if not found:
        return False
    copy = tier.copy(found[-1])
    for file, image in zip(copy.manifest.files, images, strict=True):
        into = memoryview(bytearray(file.checksum.size))
        read_files(copy, [(file, into)])
        assert into == image
    return True


@pytest.mark.parametrize("when", When)
@pytest.mark.parametrize("at", range(len(OPERATIONS)), ids=[f"{n}-{name}" for n, name in enumerate(OPERATIONS)])
def test_an_upload_cut_at_any_operation_loses_nothing_and_is_taken_up_where_it_stopped(
    remote: RemoteSettings, small_chunks: int, tmp_path: Path, at: int, when: When
) -> None:
    snapshots, bucket = tmp_path / "snapshots", bare(remote)
    before = [b"before" * 100]
    images = [bytes([1]) * (small_chunks * (PARTS - 1) + 77), bytes([2]) * 4096]
    make_snapshot(snapshots, 10, *before)
    upload(bucket, snapshots / names.snapshot_name(10))
    manifest = make_snapshot(snapshots, 20, *images)
    first = FaultyBucket(bucket, at, when)
    with pytest.raises(Cut):
        upload(first, snapshots / names.snapshot_name(20))
    assert loads(bucket, 10, before)
    is_there = loads(bucket, 20, images)
    assert is_there == (at == len(OPERATIONS) - 1 and when is When.AFTER)

    second = FaultyBucket(bare(remote))  # another process, which remembers nothing
    result = upload(second, snapshots / names.snapshot_name(20))
    assert loads(bucket, 20, images)
    assert first.done["send"] + second.done["send"] == PARTS, "no part is sent twice"
    assert result.sent + result.found == manifest.size
    tier = RemoteTier(bucket)
    assert tier.remove_leftovers(keep=()) == [], "nothing is left over"
    assert set(bucket.sizes()) == {
        f"{item.name}/{file}"
        for item in tier.items()
        for file in ("manifest.json", *(image.name for image in item.manifest.files if item.manifest))  # type: ignore[union-attr]
    }
    assert not list(bucket.unfinished())


def test_the_operations_of_an_upload_are_those_that_were_cut(
    remote: RemoteSettings, small_chunks: int, tmp_path: Path
) -> None:
    make_snapshot(tmp_path / "s", 20, bytes(small_chunks * (PARTS - 1) + 77), bytes(4096))
    bucket = FaultyBucket(bare(remote))
    upload(bucket, tmp_path / "s" / names.snapshot_name(20))
    assert bucket.operations == len(OPERATIONS)
    assert bucket.done == {name: OPERATIONS.count(name) for name in OPERATIONS}


def test_what_is_there_already_is_not_sent_again(remote: RemoteSettings, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "s", 5)
    bucket = FaultyBucket(bare(remote))
    assert upload(bucket, tmp_path / "s" / names.snapshot_name(5)).new
    again = upload(bucket, tmp_path / "s" / names.snapshot_name(5))
    assert (again.new, again.sent, again.found) == (False, 0, 3000)
    assert bucket.done["put"] == 2


def test_a_damaged_local_copy_is_never_uploaded(remote: RemoteSettings, small_chunks: int, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "s", 5, bytes(3 * small_chunks))
    snapshot = tmp_path / "s" / names.snapshot_name(5)
    flip_bit(snapshot / "rank-00000.safetensors", offset=small_chunks + 5)
    bucket = bare(remote)
    with pytest.raises(SnapshotCorrupt, match=f"bytes {small_chunks} to {2 * small_chunks}"):
        upload(bucket, snapshot)
    tier = RemoteTier(bucket)
    assert tier.items() == ()
    tier.remove_leftovers(keep=())
    assert not bucket.sizes()
    assert not list(bucket.unfinished())


def test_leftovers_of_a_snapshot_that_is_still_wanted_stay(
    remote: RemoteSettings, small_chunks: int, tmp_path: Path
) -> None:
    manifest = make_snapshot(tmp_path / "s", 5, bytes(3 * small_chunks))
    bucket = bare(remote)
    with pytest.raises(Cut):
        upload(FaultyBucket(bucket, at=3), tmp_path / "s" / names.snapshot_name(5))
    name = remote_name(5, manifest.identity)
    assert RemoteTier(bucket).remove_leftovers(keep=[name]) == []
    assert upload(bucket, tmp_path / "s" / names.snapshot_name(5)).found > 0
    RemoteTier(bucket).delete(name)
    assert not bucket.sizes()


def test_errors_that_pass_are_tried_again_and_those_that_do_not_are_reported_at_once(
    remote: RemoteSettings, tmp_path: Path
) -> None:
    make_snapshot(tmp_path / "s", 5)
    waits: list[float] = []
    for error, tries in ((ConnectionResetError, 2), (PermissionError, 1)):
        faulty = FaultyBucket(bare(remote), at=0, error=error)
        patient = PatientBucket(faulty, remote.url, Patience(attempts=3, sleep=waits.append))
        if tries == 1:
            with pytest.raises(RemoteUnavailable, match="refuses: PermissionError"):
                upload(patient, tmp_path / "s" / names.snapshot_name(5))
        else:
            upload(patient, tmp_path / "s" / names.snapshot_name(5))
    assert len(waits) == 1


def test_trying_again_ends(tmp_path: Path) -> None:
    class Down(FaultyBucket):
        def sizes(self, prefix: str = "") -> dict[str, int]:
            self.operations += 1
            raise ConnectionRefusedError("nobody listens")

    down = Down(bare(RemoteSettings(url=str(tmp_path))))
    patient = PatientBucket(down, "s3://somewhere", Patience(attempts=4, sleep=lambda _seconds: None))
    with pytest.raises(
        RemoteUnavailable, match=r"s3://somewhere cannot be used: nobody listens \(tried 4 times\)"
    ) as caught:
        patient.sizes()
    assert caught.value.transient
    assert down.operations == 4


def test_a_bucket_that_does_not_exist_is_no_empty_one(remote: RemoteSettings) -> None:
    elsewhere = RemoteSettings(
        url=remote.url.replace("test-", "gone-").replace("other disk", "gone disk"), options=remote.options
    )
    bucket = PatientBucket(bare(elsewhere), elsewhere.url, Patience(attempts=5, sleep=pytest.fail))
    with pytest.raises(RemoteUnavailable, match="refuses") as caught:
        RemoteTier(bucket).items()
    assert not caught.value.transient


def test_a_part_that_was_cut_in_the_middle_is_sent_again(small_chunks: int, tmp_path: Path) -> None:
    """A directory is the one place where half a part can lie; and a power cut may leave its size without its bytes."""
    image = os.urandom(3 * small_chunks)
    manifest = make_snapshot(tmp_path / "s", 5, image)
    settings = RemoteSettings(url=str(tmp_path))
    bucket = bare(settings)
    key = f"{remote_name(5, manifest.identity)}/rank-00000.safetensors"
    begun = bucket.begin(key, manifest.files[0].checksum)
    begun.send(0, memoryview(image[:small_chunks]))
    partial = tmp_path / "demo" / Path(key).with_name(".partial-rank-00000.safetensors")
    with partial.open("ab") as stream:
        stream.write(bytes(small_chunks))  # the size of a part, not its bytes
        stream.write(b"half")
    counting = FaultyBucket(bare(settings))
    upload(counting, tmp_path / "s" / names.snapshot_name(5))
    assert counting.done["send"] == 2
    assert loads(bucket, 5, [image])


def test_a_full_disk_in_the_middle_of_a_part_leaves_what_can_be_taken_up(
    small_chunks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = os.urandom(3 * small_chunks)
    make_snapshot(tmp_path / "s", 5, image)
    bucket, sent = bare(RemoteSettings(url=str(tmp_path))), []

    def full(self: FileUpload, descriptor: int, data: memoryview) -> None:
        sent.append(len(data))
        write_all(descriptor, data if len(sent) == 1 else data[:4096])
        if len(sent) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(FileUpload, "_write", full)
        with pytest.raises(OSError, match="No space"):
            upload(bucket, tmp_path / "s" / names.snapshot_name(5))
    result = upload(bucket, tmp_path / "s" / names.snapshot_name(5))
    assert (result.found, result.sent) == (small_chunks, 2 * small_chunks)
    assert loads(bucket, 5, [image])


def test_the_pace_is_kept_on_average() -> None:
    now, waits = [100.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    pace = Pace(10.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(4):
        pace.spend(50)
    assert waits == [5.0, 5.0, 5.0]
    now[0] += 100
    pace.spend(50)
    assert waits == [5.0, 5.0, 5.0], "time that nobody used is not saved up, and not paid twice"


def test_an_upload_whose_completion_was_not_heard_of_can_be_finished_again(
    remote: RemoteSettings, small_chunks: int, tmp_path: Path
) -> None:
    image = os.urandom(2 * small_chunks)
    manifest = make_snapshot(tmp_path / "s", 5, image)
    bucket, key = bare(remote), f"{remote_name(5, manifest.identity)}/rank-00000.safetensors"
    begun = bucket.begin(key, manifest.files[0].checksum)
    for number in range(2):
        begun.send(number, memoryview(image)[number * small_chunks : (number + 1) * small_chunks])
    begun.finish()
    if isinstance(bucket, S3Bucket):  # the service forgets an upload that is completed; this server does so later
        upload_id = begun._identity  # type: ignore[attr-defined]
        bucket = Forgetful(bucket._filesystem, bucket._bucket, bucket._prefix)
        begun = MultipartUpload(bucket, bucket._prefix + key, upload_id, part_sizes(manifest.files[0].checksum))
    begun.finish()
    assert bucket.sizes()[key] == len(image)


class Forgetful(S3Bucket):
    """Answers as S3 does when the upload that is to be completed is not there any more."""

    def call(self, method: str, **arguments: object) -> object:
        if method == "complete_multipart_upload":
            raise FileNotFoundError("The specified upload does not exist.")
        return super().call(method, **arguments)


def test_after_a_part_that_failed_no_other_follows(remote: RemoteSettings, small_chunks: int, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "s", 5, bytes(5 * small_chunks))
    faulty = Slow(bare(remote), at=3, error=OSError)
    with pytest.raises(OSError, match="send, operation 3"):
        upload(faulty, tmp_path / "s" / names.snapshot_name(5))
    assert faulty.operations == 4


def test_who_may_not_list_what_was_begun_can_still_upload(s3_endpoint: str, small_chunks: int, tmp_path: Path) -> None:
    class Forbidden(S3Bucket):
        def call(self, method: str, **arguments: object) -> object:
            if method == "list_multipart_uploads":
                raise PermissionError("Access Denied")
            return super().call(method, **arguments)

    bucket = bare(make_s3(s3_endpoint))
    assert isinstance(bucket, S3Bucket)
    image = os.urandom(2 * small_chunks)
    make_snapshot(tmp_path / "s", 5, image)
    upload(Forbidden(bucket._filesystem, bucket._bucket, bucket._prefix), tmp_path / "s" / names.snapshot_name(5))
    assert loads(bucket, 5, [image])


def test_files_that_a_kill_left_half_written_in_a_directory_go(tmp_path: Path) -> None:
    manifest = make_snapshot(tmp_path / "s", 5)
    bucket = bare(RemoteSettings(url=str(tmp_path)))
    upload(bucket, tmp_path / "s" / names.snapshot_name(5))
    directory = tmp_path / "demo" / remote_name(5, manifest.identity)
    (directory / ".fresh-manifest.json-0a1b2c3d").write_text("{")
    (directory / ".partial-rank-00000.safetensors").write_text("x")
    assert loads(bucket, 5, [(directory / "rank-00000.safetensors").read_bytes()])
    RemoteTier(bucket).remove_leftovers(keep=())
    assert {path.name for path in directory.iterdir()} == {"manifest.json", "rank-00000.safetensors"}


class Slow(FaultyBucket):
    """So slow that the next part waits when one fails."""

    def _do(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        time.sleep(0.3 if name == "send" else 0.0)
        return super()._do(name, function, *arguments)
