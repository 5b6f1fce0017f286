"""The ends of images: what is in a snapshot is found without reading it, and what is damaged there is not believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from resilient.errors import SnapshotCorrupt
from resilient.protocol.names import snapshot_name
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.image import Layout, TensorSpec
from resilient.snapshot.lying import Images
from resilient.snapshot.manifest import NAME, ImageFile, Manifest
from resilient.snapshot.memory import memory_for_disk
from resilient.snapshot.storage import Storage

STEP = 7
STATE = b'{"step": 7, "objects": {}}'


class _Counted(LocalCopy):
    """Notes how many bytes are read."""

    read_bytes = 0

    def read(self, file: ImageFile, offset: int, into: memoryview, expected: str) -> None:
        self.read_bytes += len(into)
        super().read(file, offset, into, expected)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Of two ranks that have all but a few bytes alike, so that one file lacks what the other one has."""
    layout = Layout.plan([TensorSpec("model.weight", "F32", (300_000,))], len(STATE))
    image = bytearray(layout.size)
    image[: len(layout.header)] = layout.header
    image[layout.state.offset :] = STATE.ljust(layout.state.spec.size)
    images = {rank: memoryview(bytes(image)) for rank in range(2)}
    commit(Storage(), tmp_path, Draft("demo", STEP, 0, images, deduplicate=True))
    return tmp_path / snapshot_name(STEP)


def test_opening_reads_only_the_ends(snapshot: Path) -> None:
    copy = _Counted(snapshot)
    whole, lacking = copy.manifest.files
    assert (whole.base, lacking.base) == (None, 0)
    images = Images(copy)
    for file in (whole, lacking):
        opened = images.open(file)
        assert opened.state == {"step": STEP, "objects": {}}
        assert opened.tensors["model.weight"].file == whole
    assert copy.read_bytes <= 5 * 4096 < whole.checksum.size


def test_a_snapshot_whose_manifest_does_not_say_them_is_opened_too(snapshot: Path) -> None:
    manifest = catalog.read_manifest(snapshot)
    expected = [Images(LocalCopy(snapshot)).open(file).state for file in manifest.files]
    old = replace(manifest, files=tuple(replace(file, ends=None) for file in manifest.files))
    (snapshot / NAME).write_bytes(old.to_bytes())
    copy = LocalCopy(snapshot)
    assert [file.ends for file in copy.manifest.files] == [None, None]
    assert [Images(copy).open(file).state for file in copy.manifest.files] == expected


@pytest.mark.parametrize("place", [20, -5])
def test_damage_in_an_end_is_found(snapshot: Path, place: int) -> None:
    path = snapshot / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    copy = LocalCopy(snapshot)
    with pytest.raises(SnapshotCorrupt, match=r"rank-00000\.safetensors: checksum mismatch"):
        Images(copy).open(copy.manifest.files[0])


def test_ends_that_cannot_be_are_refused(snapshot: Path) -> None:
    manifest = catalog.read_manifest(snapshot)
    first = manifest.files[0]
    assert first.ends is not None
    for wrong in (
        replace(first.ends, front=replace(first.ends.front, size=first.checksum.size + 1)),
        replace(first.ends, back=replace(first.ends.back, xxh3_128="none")),
    ):
        files = (replace(first, ends=wrong), *manifest.files[1:])
        with pytest.raises(SnapshotCorrupt, match="malformed"):
            Manifest.from_bytes(replace(manifest, files=files).to_bytes())


def test_an_image_that_is_none_has_no_ends(tmp_path: Path) -> None:
    manifest = commit(Storage(), tmp_path, Draft("demo", STEP, 0, {0: memoryview(b"anything" * 100)}))
    assert [file.ends for file in manifest.files] == [None]


@pytest.mark.parametrize("size", [0, 1, 5000, (2 << 20) + 1])
def test_memory_is_as_large_as_was_asked_for(size: int) -> None:
    memory = memory_for_disk(size)
    assert len(memory) == size
    memory[:] = b"x" * size
