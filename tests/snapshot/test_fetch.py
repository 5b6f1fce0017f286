"""A snapshot from another tier becomes one here: whole, the same, and only if every byte is what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.drill.faults import flip_bit
from resilient.errors import SnapshotCorrupt, StorageFull
from resilient.protocol import names
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.fetch import fetch
from resilient.snapshot.storage import Storage


def snapshot(directory: Path, *, deduplicate: bool = True) -> Path:
    """Of two ranks that have most alike."""
    directory.mkdir()
    images = {rank: memoryview(bytes(100_000) + bytes([rank]) * 5000) for rank in (0, 1)}
    commit(Storage(), directory, Draft("run", 7, 0, images, deduplicate=deduplicate))
    return directory / names.snapshot_name(7)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_it_is_the_same_snapshot_and_replaces_another_of_its_step(tmp_path: Path, here: Path) -> None:
    there = snapshot(tmp_path / "there")
    for _ in range(2):
        fetch(Storage(), here, LocalCopy(there))
        assert [path.name for path in sorted(here.iterdir())] == ["latest", there.name]
        assert (here / "latest").resolve() == here / there.name
        assert {file.name: file.read_bytes() for file in (here / there.name).iterdir()} == {
            file.name: file.read_bytes() for file in there.iterdir()
        }
        catalog.verify(here / there.name)


def test_of_a_damaged_one_nothing_is_left(tmp_path: Path, here: Path) -> None:
    there = snapshot(tmp_path / "there")
    flip_bit(there / names.image_name(1), 3000)
    with pytest.raises(SnapshotCorrupt, match=names.image_name(1)):
        fetch(Storage(), here, LocalCopy(there))
    assert not list(here.iterdir())


def test_without_room_nothing_is_begun(tmp_path: Path, here: Path) -> None:
    class Full(Storage):
        def free_bytes(self, path: Path) -> int:
            return 1000

    there = snapshot(tmp_path / "there")
    with pytest.raises(StorageFull):
        fetch(Full(), here, LocalCopy(there))
    assert not list(here.iterdir())
