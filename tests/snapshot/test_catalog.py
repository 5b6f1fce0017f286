"""The catalog: what counts as a snapshot, and that nothing damaged is ever loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resilient.errors import SnapshotCorrupt
from resilient.protocol import names
from resilient.snapshot.catalog import committed_steps, quarantine, read_image, read_manifest, verify
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.storage import Storage

CONTENT = bytes(range(256)) * 40
IMAGE = "rank-00000.safetensors"


def commit_step(directory: Path, step: int, content: bytes = CONTENT) -> Path:
    commit(Storage(), directory, Draft("bytelm", step, 0, {0: memoryview(content)}))
    return directory / names.snapshot_name(step)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return commit_step(tmp_path, 5)


def load(snapshot: Path) -> bytes:
    """Load the one image as a restore does."""
    (file,) = read_manifest(snapshot).files
    memory = bytearray(file.checksum.size)
    read_image(snapshot, file, memoryview(memory))
    return bytes(memory)


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


# --- what counts as a snapshot


def test_snapshots_are_listed_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (30, 5, 1000):
        commit_step(tmp_path, step)
    assert committed_steps(tmp_path) == (5, 30, 1000)


def test_no_directory_is_an_empty_catalog(tmp_path: Path) -> None:
    assert committed_steps(tmp_path / "none") == ()


@pytest.mark.parametrize(
    "name",
    ["step-000000009", "step-000000009.corrupt", ".tmp-step-000000009-abcd", "step-9", "notes", "step-000000009.bak"],
)
def test_a_directory_without_a_manifest_or_with_another_name_is_never_chosen(snapshot: Path, name: str) -> None:
    shutil.copytree(snapshot, snapshot.parent / name)
    if name == "step-000000009":
        (snapshot.parent / name / "manifest.json").unlink()
    assert committed_steps(snapshot.parent) == (5,)


def test_a_file_or_a_directory_in_the_manifests_place_is_no_snapshot(snapshot: Path) -> None:
    (snapshot.parent / "step-000000008").write_text("a file")
    (snapshot.parent / "step-000000009" / "manifest.json").mkdir(parents=True)
    assert committed_steps(snapshot.parent) == (5,)


# --- loading


def test_what_was_committed_is_loaded(snapshot: Path) -> None:
    assert load(snapshot) == CONTENT
    assert verify(snapshot).step == 5


@pytest.mark.parametrize("position", [0, 1, 100, len(CONTENT) // 2, len(CONTENT) - 1])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_an_image_is_found(snapshot: Path, position: int, bit: int) -> None:
    flip(snapshot / IMAGE, position, bit)
    with pytest.raises(SnapshotCorrupt, match=rf"step-000000005/{IMAGE}: checksum mismatch"):
        load(snapshot)
    with pytest.raises(SnapshotCorrupt, match=rf"step-000000005/{IMAGE}: checksum mismatch"):
        verify(snapshot)


@pytest.mark.parametrize("part", range(10))
def test_a_flipped_bit_in_a_manifest_is_found(snapshot: Path, part: int) -> None:
    path = snapshot / "manifest.json"
    flip(path, len(path.read_bytes().rstrip()) * part // 10, part % 8)
    with pytest.raises(SnapshotCorrupt, match="step-000000005: the manifest"):
        read_manifest(snapshot)
    with pytest.raises(SnapshotCorrupt):
        verify(snapshot)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_cut, _lengthen, _empty, Path.unlink, _directory])
def test_an_image_that_is_not_as_it_was_is_found(snapshot: Path, damage: Callable[[Path], None]) -> None:
    damage(snapshot / IMAGE)
    for read in (load, verify):
        with pytest.raises(SnapshotCorrupt, match=f"step-000000005/{IMAGE}"):
            read(snapshot)


@pytest.mark.parametrize("damage", [_empty, Path.unlink, _directory])
def test_a_manifest_that_is_not_as_it_was_is_found(snapshot: Path, damage: Callable[[Path], None]) -> None:
    damage(snapshot / "manifest.json")
    for read in (load, verify):
        with pytest.raises(SnapshotCorrupt, match="step-000000005"):
            read(snapshot)


def test_a_snapshot_under_another_steps_name_is_found(snapshot: Path) -> None:
    other = snapshot.rename(snapshot.with_name("step-000000006"))
    with pytest.raises(SnapshotCorrupt, match="that of step 5"):
        read_manifest(other)


def test_a_snapshot_copied_elsewhere_under_any_name_can_be_read(snapshot: Path, tmp_path: Path) -> None:
    copy = tmp_path / "best-model"
    shutil.copytree(snapshot, copy)
    assert verify(copy).step == 5


def test_damage_in_a_later_chunk_is_found_and_its_place_is_named(tmp_path: Path) -> None:
    snapshot = commit_step(tmp_path, 5, bytes(CHUNK + 5))
    assert verify(snapshot).size == CHUNK + 5
    with (snapshot / IMAGE).open("r+b") as stream:
        stream.seek(CHUNK + 2)
        stream.write(b"\x01")
    with pytest.raises(SnapshotCorrupt, match=f"bytes {CHUNK} to {CHUNK + 5}"):
        load(snapshot)
    with pytest.raises(SnapshotCorrupt, match="checksum mismatch"):
        verify(snapshot)


# --- quarantine


def test_a_quarantined_snapshot_is_kept_and_never_chosen(snapshot: Path) -> None:
    kept = quarantine(Storage(), snapshot)
    assert kept.name == "step-000000005.corrupt"
    assert (kept / IMAGE).read_bytes() == CONTENT
    assert not snapshot.exists()
    assert committed_steps(snapshot.parent) == ()


def test_a_step_that_is_corrupt_again_and_again_is_kept_each_time(tmp_path: Path) -> None:
    kept = [quarantine(Storage(), commit_step(tmp_path, 5)).name for _ in range(3)]
    assert kept == ["step-000000005.corrupt", "step-000000005.corrupt-2", "step-000000005.corrupt-3"]
    assert committed_steps(tmp_path) == ()
