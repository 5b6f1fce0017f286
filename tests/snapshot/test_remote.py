"""The remote tier: what it lists, refuses, keeps and deletes, on a real S3 server and in a second directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from resilient.errors import RemoteUnavailable, SnapshotCorrupt
from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.lineage import Lineage, Rollback
from resilient.protocol import names
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot.bucket import Bucket
from resilient.snapshot.bucket_fsspec import ObjectBucket, open_bucket
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import LocalCopy, RemoteCopy, read_chunks, read_files, verify
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.remote import MARK, RemoteTier, current, remote_name, remote_step
from resilient.snapshot.retention import Reason
from resilient.snapshot.standing import Standing
from resilient.snapshot.storage import Storage
from resilient.snapshot.upload import upload
from tests.buckets import Cut, FaultyBucket, When, bare, make_snapshot


def put(bucket: Bucket, snapshots: Path, step: int, *images: bytes, **details: float) -> Manifest:
    manifest = make_snapshot(snapshots, step, *images, metrics=details)
    upload(bucket, snapshots / names.snapshot_name(step))
    return manifest


def read(tier: RemoteTier, step: int) -> bytes:
    copy = tier.copy(current(tier.items())[step])
    file = copy.manifest.files[0]
    into = memoryview(bytearray(file.checksum.size))
    read_files(copy, [(file, into)])
    return bytes(into)


def edit(bucket: Bucket, key: str, change: Callable[[bytearray], bytearray]) -> None:
    data = bytearray(bucket.sizes()[key])
    bucket.read(key, 0, memoryview(data))
    bucket.put(key, bytes(change(data)))


def flipped(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


def test_names_are_parsed_strictly() -> None:
    assert remote_name(7, "0123456789abcdef") == "step-000000007.01234567"
    assert remote_step("step-000000007.01234567") == 7
    for name in ("step-000000007", "step-7.01234567", "step-000000007.0123456x", "step-000000007.01234567/x", "../x"):
        assert remote_step(name) is None


def test_what_was_uploaded_is_listed_and_reads_back(remote: RemoteSettings, small_chunks: int, tmp_path: Path) -> None:
    bucket, image = bare(remote), os.urandom(2 * small_chunks + 9)
    put(bucket, tmp_path, 10, image, loss=0.5)
    put(bucket, tmp_path, 20)
    tier = RemoteTier(bare(remote))
    items = tier.items()
    assert [(item.step, item.loadable, item.problem) for item in items] == [(10, True, ""), (20, True, "")]
    assert items[0].manifest is not None
    assert items[0].manifest.metrics == {"loss": 0.5}
    assert read(tier, 10) == image
    file = items[0].manifest.files[0]
    assert b"".join(bytes(chunk) for _, chunk in read_chunks(tier.copy(items[0]), file)) == image
    verify(tier.copy(items[0]))


def test_the_objects_are_ordinary_safetensors_files_and_the_same_manifest(
    remote: RemoteSettings, tmp_path: Path
) -> None:
    bucket = bare(remote)
    manifest = put(bucket, tmp_path, 10)
    name = remote_name(10, manifest.identity)
    local = tmp_path / names.snapshot_name(10)
    for file in ("manifest.json", "rank-00000.safetensors"):
        data = bytearray(bucket.sizes()[f"{name}/{file}"])
        bucket.read(f"{name}/{file}", 0, memoryview(data))
        assert bytes(data) == (local / file).read_bytes()


def test_a_flipped_bit_is_found_with_its_place_and_marked_for_ever(
    remote: RemoteSettings, small_chunks: int, tmp_path: Path
) -> None:
    bucket, image = bare(remote), os.urandom(3 * small_chunks)
    manifest = put(bucket, tmp_path, 10, image)
    key = f"{remote_name(10, manifest.identity)}/rank-00000.safetensors"
    edit(bucket, key, flipped)
    tier = RemoteTier(bucket)
    item = tier.items()[0]
    with pytest.raises(SnapshotCorrupt, match=f"bytes {small_chunks} to {2 * small_chunks}") as caught:
        read(tier, 10)
    assert tier.mark(item, caught.value.problem)
    again = RemoteTier(bare(remote)).items()
    assert [(item.loadable, item.marked) for item in again] == [(False, True)]
    assert "checksum mismatch" in again[0].problem
    assert key in bucket.sizes(), "it is kept for whoever wants to know why"
    with pytest.raises(SnapshotCorrupt, match="failed verification"):
        tier.copy(again[0])
    assert tier.prune(RetentionSettings(last=1)) == []
    assert key in bucket.sizes()


def test_a_damaged_read_is_tried_once_more(tmp_path: Path) -> None:
    """What the network damaged is sound at the second reading."""

    class Noisy(FaultyBucket):
        def read(self, key: str, start: int, into: memoryview) -> None:
            super().read(key, start, into)
            if self.done["read"] == 1:
                into[0] ^= 1

    bucket = bare(RemoteSettings(url=str(tmp_path)))
    image = os.urandom(5000)
    manifest = put(bucket, tmp_path / "s", 10, image)
    noisy = Noisy(bucket)
    into = memoryview(bytearray(5000))
    copy = RemoteCopy(noisy, remote_name(10, manifest.identity), manifest)
    read_files(copy, [(manifest.files[0], into)])
    assert bytes(into) == image
    assert noisy.done["read"] == 2


DAMAGE: dict[str, Callable[[Bucket, str], None]] = {
    "an image is missing": lambda bucket, name: bucket.delete([f"{name}/rank-00000.safetensors"]),
    "an image is cut": lambda bucket, name: edit(bucket, f"{name}/rank-00000.safetensors", lambda data: data[:-1]),
    "an image is longer": lambda bucket, name: edit(bucket, f"{name}/rank-00000.safetensors", lambda data: data + b"x"),
    "the manifest is cut": lambda bucket, name: edit(bucket, f"{name}/manifest.json", lambda data: data[:-9]),
    "a bit of the manifest": lambda bucket, name: edit(bucket, f"{name}/manifest.json", flipped),
    "the manifest is empty": lambda bucket, name: bucket.put(f"{name}/manifest.json", b""),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_seen_in_the_listing_and_never_chosen(
    remote: RemoteSettings, tmp_path: Path, damage: Callable[[Bucket, str], None]
) -> None:
    bucket = bare(remote)
    put(bucket, tmp_path, 10)
    manifest = put(bucket, tmp_path, 20)
    damage(bucket, remote_name(20, manifest.identity))
    tier = RemoteTier(bucket)
    items = tier.items()
    assert [(item.step, item.loadable) for item in items] == [(10, True), (20, False)]
    assert items[1].problem
    assert list(current(items)) == [10]
    with pytest.raises(SnapshotCorrupt):
        tier.copy(items[1])


def test_a_manifest_that_leads_out_of_its_directory_is_refused(remote: RemoteSettings, tmp_path: Path) -> None:
    import json

    from resilient.snapshot.hashing import digest
    from resilient.snapshot.manifest import _dump

    bucket = bare(remote)
    manifest = put(bucket, tmp_path, 10)
    key = f"{remote_name(10, manifest.identity)}/manifest.json"

    def led_astray(data: bytearray) -> bytearray:
        body = json.loads(data)
        body.pop("manifest_xxh3_128")
        body["files"][0]["name"] = "../../secret.safetensors"
        return bytearray(_dump({**body, "manifest_xxh3_128": digest(_dump(body))}))

    edit(bucket, key, led_astray)
    assert "no name of an image" in RemoteTier(bucket).items()[0].problem


def test_an_absurdly_large_manifest_is_not_read(tmp_path: Path) -> None:
    bucket = bare(RemoteSettings(url=str(tmp_path)))
    manifest = put(bucket, tmp_path / "s", 10)
    os.truncate(tmp_path / "demo" / remote_name(10, manifest.identity) / "manifest.json", 1 << 40)
    counting = FaultyBucket(bucket)
    assert "absurd" in RemoteTier(counting).items()[0].problem
    assert not counting.done["read"]


def test_the_manifest_of_another_snapshot_is_refused(tmp_path: Path) -> None:
    bucket = bare(RemoteSettings(url=str(tmp_path)))
    one, other = put(bucket, tmp_path / "s", 10), put(bucket, tmp_path / "s", 20)
    data = (tmp_path / "demo" / remote_name(10, one.identity) / "manifest.json").read_bytes()
    bucket.put(f"{remote_name(20, other.identity)}/manifest.json", data)
    assert [item.loadable for item in RemoteTier(bucket).items()] == [True, False]


def test_what_is_not_ours_is_left_alone(remote: RemoteSettings, tmp_path: Path) -> None:
    bucket = bare(remote)
    put(bucket, tmp_path, 10)
    foreign = {"README", "notes/x", "step-000000010/rank-00000.safetensors", "step-000000001.zzzzzzzz/a"}
    for key in foreign:
        bucket.put(key, b"mine")
    tier = RemoteTier(bucket)
    assert [item.step for item in tier.items()] == [10]
    tier.prune(RetentionSettings(last=1))
    tier.remove_leftovers(keep=())
    assert foreign < set(bucket.sizes())


# --- retention


def test_retention_is_its_own_and_respects_pins(remote: RemoteSettings, tmp_path: Path) -> None:
    bucket = bare(remote)
    for step in (10, 20, 30, 40):
        put(bucket, tmp_path, step)
    tier = RemoteTier(bucket)
    assert tier.prune(RetentionSettings(last=1, every_steps=20), lambda step: step == 10) == [30]
    assert [item.step for item in tier.items()] == [10, 20, 40]
    assert not any(key.startswith("step-000000030") for key in bucket.sizes())


def test_of_two_snapshots_of_one_step_the_later_counts_and_the_other_goes(
    remote: RemoteSettings, tmp_path: Path
) -> None:
    bucket = bare(remote)
    put(bucket, tmp_path, 10, b"first" * 1000)
    put(bucket, tmp_path, 10, b"again" * 1000)
    tier = RemoteTier(bucket)
    assert len(tier.items()) == 2
    assert read(tier, 10) == b"again" * 1000
    assert tier.prune(RetentionSettings(last=3)) == []
    assert len(tier.items()) == 1
    assert read(tier, 10) == b"again" * 1000


def test_the_snapshot_made_last_stays_though_a_rollback_left_higher_ones(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    bucket = bare(RemoteSettings(url=str(tmp_path / "r")))
    for step in (30, 40, 10):
        put(bucket, tmp_path / "s", step)
    tier = RemoteTier(bucket)
    assert tier.prune(RetentionSettings(last=1)) == [30]
    assert [item.step for item in tier.items()] == [10, 40]


@pytest.mark.parametrize("when", When)
@pytest.mark.parametrize("at", range(3))
def test_a_deletion_that_is_cut_leaves_a_whole_snapshot_or_none(
    remote: RemoteSettings, tmp_path: Path, at: int, when: When
) -> None:
    bucket = bare(remote)
    manifest = put(bucket, tmp_path, 10, b"one" * 2000, b"two" * 2000)
    name = remote_name(10, manifest.identity)
    with pytest.raises(Cut):
        RemoteTier(FaultyBucket(bucket, at + 1, when)).delete(name)  # the first operation only looks
    items = RemoteTier(bucket).items()
    assert [item.loadable for item in items] == ([True] if (at, when) == (0, When.BEFORE) else [])
    if not items:
        assert RemoteTier(bucket).remove_leftovers(keep=()) in ([name], [])
        assert not bucket.sizes()


# --- places


def test_a_place_that_may_only_be_read_can_be_loaded_from(tmp_path: Path) -> None:
    class ReadOnly(FaultyBucket):
        def put(self, key: str, data: bytes | memoryview) -> None:
            raise RemoteUnavailable("may not write", transient=False)

    bucket = bare(RemoteSettings(url=str(tmp_path)))
    put(bucket, tmp_path / "s", 10, b"x" * 5000)
    tier = RemoteTier(ReadOnly(bucket))
    assert read(tier, 10) == b"x" * 5000
    assert not tier.mark(tier.items()[0], "whatever")
    assert MARK not in str(sorted(bucket.sizes()))


@pytest.fixture
def any_filesystem(small_chunks: int) -> ObjectBucket:
    """What fsspec offers on every filesystem, on the one that needs no server."""
    filesystem = fsspec.filesystem("memory", skip_instance_cache=True)
    filesystem.store.clear()
    return ObjectBucket(filesystem, "memory://place/demo")


def test_any_fsspec_filesystem_will_do(any_filesystem: ObjectBucket, small_chunks: int, tmp_path: Path) -> None:
    image = os.urandom(2 * small_chunks + 5)
    assert any_filesystem.sizes() == {}
    put(any_filesystem, tmp_path, 10, image, b"small" * 100)
    put(any_filesystem, tmp_path, 20)
    tier = RemoteTier(any_filesystem)
    assert [item.step for item in tier.items() if item.loadable] == [10, 20]
    assert read(tier, 10) == image
    assert tier.prune(RetentionSettings(last=1)) == [10]
    assert [item.step for item in tier.items()] == [20]


@pytest.mark.parametrize("at", range(8))
def test_on_any_filesystem_an_upload_that_was_cut_is_completed(
    any_filesystem: ObjectBucket, small_chunks: int, tmp_path: Path, at: int
) -> None:
    image = os.urandom(2 * small_chunks + 5)
    make_snapshot(tmp_path, 10, image)
    with pytest.raises(Cut):
        upload(FaultyBucket(any_filesystem, at), tmp_path / names.snapshot_name(10))
    tier = RemoteTier(any_filesystem)
    assert tier.items() == ()
    upload(any_filesystem, tmp_path / names.snapshot_name(10))
    assert read(tier, 10) == image
    assert tier.remove_leftovers(keep=()) == []
    assert len(any_filesystem.sizes()) == 2


def test_a_local_copy_reads_as_a_remote_one_does(tmp_path: Path, small_chunks: int) -> None:
    image = os.urandom(2 * small_chunks + 9)
    manifest = make_snapshot(tmp_path, 10, image)
    copy = LocalCopy(tmp_path / names.snapshot_name(10))
    assert b"".join(bytes(chunk) for _, chunk in read_chunks(copy, manifest.files[0])) == image
    edited = bytearray(image)
    edited[small_chunks] ^= 8
    (tmp_path / names.snapshot_name(10) / "rank-00000.safetensors").write_bytes(edited)
    with pytest.raises(SnapshotCorrupt, match=f"bytes {small_chunks} to {2 * small_chunks}"):
        verify(copy)


def test_nobody_listens_at_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    settings = RemoteSettings(url="s3://bucket/x", options={"endpoint_url": "http://127.0.0.1:9"}, attempts=1)
    with pytest.raises(RemoteUnavailable, match="cannot be used") as caught:
        open_bucket(settings, "demo").sizes()
    assert caught.value.transient


def test_retention_there_keeps_what_a_rollback_may_need_and_leaves_alone_what_is_off_the_lineage(
    tmp_path: Path,
) -> None:
    (tmp_path / "there").mkdir()
    bucket = open_bucket(RemoteSettings(url=f"file://{tmp_path / 'there'}"), "run")
    known = KnownGood().taken(100, 10).taken(200, 10).advanced(400, 150)
    lineage = Lineage(known=known).rolled_back(Rollback(500, 600, 0)).launched()
    for step in (100, 200, 300, 400, 500, 600):
        said = {"lineage": lineage.to_json()}
        commit(Storage(), tmp_path, Draft("run", step, 0, {0: memoryview(bytes(10))}, divergence=said))
        upload(bucket, tmp_path / names.snapshot_name(step))
    tier, last = RemoteTier(bucket), RetentionSettings(last=1)
    for standing in (Standing(lineage), None):  # as the run has it, and as the newest of them has it
        found = tier.review(tier.items(), last, standing=standing)
        assert found.removable == (400,)
        assert found.kept == {
            100: (Reason.GOOD,),  # a rung to go back to from 200
            200: (Reason.GOOD,),
            300: (Reason.GOOD,),
            500: (Reason.NEWEST, Reason.LAST),
        }
    assert tier.review(tier.items(), last, standing=Standing(problem="damaged")).removable == ()
    assert tier.prune(last, margin=None) == [100, 200, 300, 400]
    assert [item.step for item in tier.items()] == [500, 600]
