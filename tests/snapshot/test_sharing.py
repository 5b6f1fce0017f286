"""What several ranks have alike is stored once, and every image can be had again as it was in memory."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from resilient.errors import SnapshotCorrupt
from resilient.protocol.names import snapshot_name
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import catalog, copies
from resilient.snapshot.bucket_fsspec import open_bucket
from resilient.snapshot.commit import Draft, commit, temporary_name
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.export import export_object, export_snapshot
from resilient.snapshot.image import HEADER, STATE, Layout, TensorSpec
from resilient.snapshot.lying import read_images
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.parts import bases_in, commit_parts, gather, write_part
from resilient.snapshot.remote import RemoteTier
from resilient.snapshot.storage import Storage
from resilient.snapshot.upload import upload
from resilient.worker.contents import contents_of
from resilient.worker.filling import Wanted, fill
from resilient.worker.leaves import TORCH_DTYPES

STEP = 5
LARGE, SMALL = 40_000, 3  # elements
SPECS = [
    TensorSpec("model.0.weight", "F32", (LARGE,)),
    TensorSpec("model.0.bias", "F32", (SMALL,)),
    TensorSpec("model.none", "F32", (0, 4)),
    TensorSpec("local.seen", "I64", (LARGE,)),
    TensorSpec("model.mask", "U8", (LARGE + 1,)),
]
Fill = Callable[[int, str, int], bytes]


def content(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def replicated(rank: int, name: str, size: int) -> bytes:
    """As under DistributedDataParallel: the model is the same, and each rank has something of its own."""
    return content((name, rank if name.startswith("local") else "all"), size)


def sharded(rank: int, name: str, size: int) -> bytes:
    return content((name, rank), size)


def in_pairs(rank: int, name: str, size: int) -> bytes:
    """As with shards that are replicated once: ranks 2 and 3 have what 0 and 1 have."""
    return content((name, rank % 2), size)


def image(rank: int, fill: Fill, specs: list[TensorSpec] = SPECS) -> memoryview:
    objects: dict[str, Any] = {"model": {}, "local": {"rank": rank}}
    for spec in specs:
        owner, _, key = spec.name.partition(".")
        objects[owner][key] = {"$tensor": spec.name}
    state = json.dumps({"step": STEP, "objects": objects}).encode()
    layout = Layout.plan(specs, len(state))
    data = bytearray(layout.size)
    data[: len(layout.header)] = layout.header
    for name, place in layout.tensors.items():
        if name != STATE:
            data[place.offset : place.end] = fill(rank, name, place.spec.size)
    data[layout.state.offset : layout.state.end] = layout.encode_state(state) or b""
    return memoryview(data)


def draft(ranks: int, fill: Fill) -> Draft:
    images = {rank: image(rank, fill) for rank in range(ranks)}
    return Draft("run", STEP, 0, images, metrics={"loss": 0.5}, deduplicate=True)


def read_back(copy: Copy, ranks: Mapping[int, memoryview]) -> dict[int, bytes]:
    """The images of some ranks, put together from what is stored."""
    into = {rank: memoryview(bytearray(len(image))) for rank, image in ranks.items()}
    read_images(copy, into, functools.partial(copies.read_files, copy))
    return {rank: bytes(image) for rank, image in into.items()}


def of(whole: Draft, *ranks: int) -> dict[int, memoryview]:
    return {rank: whole.images[rank] for rank in ranks}


def as_bytes(images: Mapping[int, memoryview]) -> dict[int, bytes]:
    return {rank: bytes(image) for rank, image in images.items()}


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[Path, Draft, Manifest]:
    whole = draft(3, replicated)
    manifest = commit(Storage(), tmp_path, whole)
    return tmp_path / snapshot_name(STEP), whole, manifest


def test_what_is_the_same_is_stored_once_and_every_image_comes_back_as_it_was(
    snapshot: tuple[Path, Draft, Manifest],
) -> None:
    path, whole, manifest = snapshot
    assert catalog.verify(path) == manifest
    assert [file.base for file in manifest.files] == [None, 0, 0]
    assert (path / "rank-00000.safetensors").read_bytes() == bytes(whole.images[0])
    own = 8 * LARGE + 4 * SMALL
    assert all(own < file.checksum.size < own + 20_000 for file in manifest.files[1:])
    assert manifest.image_size == sum(map(len, whole.images.values()))
    copy = LocalCopy(path)
    for ranks in ((0, 1, 2), (1, 2), (2,), (0,)):  # of one node, of several
        assert read_back(copy, of(whole, *ranks)) == as_bytes(of(whole, *ranks))


def test_any_safetensors_tool_opens_each_file_and_finds_in_it_what_the_rank_has_by_itself(
    snapshot: tuple[Path, Draft, Manifest],
) -> None:
    path, whole, _ = snapshot
    found = safetensors.torch.load_file(path / "rank-00002.safetensors")
    assert set(found) == {"local.seen", STATE, HEADER}
    layout = Layout.parse(whole.images[2])
    place = layout.tensors["local.seen"]
    assert found["local.seen"].numpy().tobytes() == bytes(whole.images[2][place.offset : place.end])
    assert bytes(found[HEADER].numpy()).startswith(layout.header)


@pytest.mark.parametrize(
    ("fill", "bases"), [(sharded, [None] * 4), (in_pairs, [None, None, 0, 1]), (replicated, [None, 0, 0, 0])]
)
def test_each_image_refers_to_the_one_that_has_the_same(tmp_path: Path, fill: Fill, bases: list[int | None]) -> None:
    whole = draft(4, fill)
    manifest = commit(Storage(), tmp_path, whole)
    assert [file.base for file in manifest.files] == bases
    read = read_back(LocalCopy(tmp_path / snapshot_name(STEP)), whole.images)
    assert read == as_bytes(whole.images)


def test_one_bit_that_differs_is_kept(tmp_path: Path) -> None:
    """A rank whose memory or device has gone wrong is not made like the others."""
    whole = draft(2, replicated)
    place = Layout.parse(whole.images[1]).tensors["model.mask"]
    whole.images[1][place.end - 1] ^= 1
    commit(Storage(), tmp_path, whole)
    path = tmp_path / snapshot_name(STEP)
    assert read_back(LocalCopy(path), whole.images) == as_bytes(whole.images)
    assert "model.mask" in safetensors.torch.load_file(path / "rank-00001.safetensors")


@pytest.mark.parametrize("others", [{0: memoryview(b"no image")}, {0: image(0, replicated, SPECS[1:3])}, {}])
def test_an_image_that_is_none_or_small_or_alone_is_written_as_it_is(
    tmp_path: Path, others: dict[int, memoryview]
) -> None:
    images = {**others, 1: memoryview(bytes(100_000)), 2: image(2, replicated, SPECS[1:3])}
    manifest = commit(Storage(), tmp_path, Draft("run", STEP, 0, images, deduplicate=True))
    assert [file.base for file in manifest.files] == [None] * len(images)
    for rank, content_of in images.items():
        assert (tmp_path / snapshot_name(STEP) / f"rank-{rank:05d}.safetensors").read_bytes() == bytes(content_of)


def test_it_is_not_done_where_it_is_not_wanted(tmp_path: Path) -> None:
    manifest = commit(Storage(), tmp_path, replace(draft(2, replicated), deduplicate=False))
    assert manifest.size == manifest.image_size
    assert b'"version": 1,' in manifest.to_bytes()


@pytest.mark.parametrize("fill", [sharded, replicated])
def test_the_first_image_goes_to_disk_as_it_grows_and_the_others_are_read_when_they_are_final(
    tmp_path: Path, fill: Fill
) -> None:
    whole = draft(2, fill)
    finals = as_bytes(whole.images)
    final = {0: 0, 1: 0}
    for image in whole.images.values():
        image[4096:] = bytes(len(image) - 4096)  # but for the header, nothing is there yet

    def ready(rank: int, size: int) -> None:
        assert rank == 0 or final[0] == len(finals[0]), "the first one is on the disk by then"
        whole.images[rank][final[rank] : size] = finals[rank][final[rank] : size]
        final[rank] = max(final[rank], size)

    commit(Storage(), tmp_path, replace(whole, ready=ready))
    assert read_back(LocalCopy(tmp_path / snapshot_name(STEP)), whole.images) == finals


def test_releases_that_do_not_know_of_it_refuse_such_a_snapshot(snapshot: tuple[Path, Draft, Manifest]) -> None:
    path, _, _ = snapshot
    assert b'"version": 2,' in (path / "manifest.json").read_bytes()


def test_a_manifest_cannot_make_memory_be_reserved_for_what_no_file_has(
    snapshot: tuple[Path, Draft, Manifest],
) -> None:
    _, _, manifest = snapshot
    first, second, third = manifest.files
    circle = (replace(first, base=1, whole=9), replace(second, base=0, whole=9), third)
    stranger = (first, replace(second, base=7), third)
    giant = (first, replace(second, whole=10**15), third)
    for files in (circle, stranger, giant):
        with pytest.raises(SnapshotCorrupt, match="lacks what no other file has"):
            Manifest.from_bytes(replace(manifest, files=files).to_bytes())


def test_damage_in_what_is_shared_is_found_whoever_reads_it(snapshot: tuple[Path, Draft, Manifest]) -> None:
    path, whole, _ = snapshot
    for rank in (0, 1):
        file = path / f"rank-{rank:05d}.safetensors"
        data = bytearray(file.read_bytes())
        data[-5000 if rank else 50_000 + 8 * LARGE] ^= 1
        file.write_bytes(data)
        with pytest.raises(SnapshotCorrupt, match=f"rank-{rank:05d}.safetensors: checksum mismatch"):
            read_back(LocalCopy(path), of(whole, 1))
        data[-5000 if rank else 50_000 + 8 * LARGE] ^= 1
        file.write_bytes(data)
    assert read_back(LocalCopy(path), of(whole, 1)) == as_bytes(of(whole, 1))


def test_readers_find_every_tensor_wherever_it_lies(snapshot: tuple[Path, Draft, Manifest], tmp_path: Path) -> None:
    path, whole, _ = snapshot
    copy = LocalCopy(path)
    for rank in (0, 2):
        contents = contents_of(copy, rank=rank)
        layout = Layout.parse(whole.images[rank])
        names = [spec.name for spec in SPECS]
        there = contents.images[copy.manifest.files[rank].name].tensors
        found = {
            name: torch.empty(there[name].place.spec.shape, dtype=TORCH_DTYPES[there[name].place.spec.dtype])
            for name in names
        }
        filled = list(fill(copy, [Wanted.whole(there[name], found[name]) for name in names]))
        assert sorted(filled) == list(range(len(names)))
        for name in names:
            place = layout.tensors[name]
            assert found[name].numpy().tobytes() == bytes(whole.images[rank][place.offset : place.end])
            assert tuple(found[name].shape) == place.spec.shape
    export_object(copy, "model", tmp_path / "model.safetensors")
    weight = safetensors.torch.load_file(tmp_path / "model.safetensors")["0.weight"]
    assert weight.numpy().tobytes() == found["model.0.weight"].numpy().tobytes()
    export_snapshot(copy, tmp_path / "kept")
    assert read_back(LocalCopy(tmp_path / "kept"), whole.images) == as_bytes(whole.images)


def test_a_copy_in_a_bucket_is_as_small_and_comes_back_as_whole(
    snapshot: tuple[Path, Draft, Manifest], tmp_path: Path
) -> None:
    path, whole, manifest = snapshot
    (tmp_path / "there").mkdir()
    bucket = open_bucket(RemoteSettings(url=f"file://{tmp_path / 'there'}"), "run")
    assert upload(bucket, path).sent == manifest.size
    tier = RemoteTier(bucket)
    assert read_back(tier.copy(tier.items()[0]), of(whole, 1, 2)) == as_bytes(of(whole, 1, 2))


def test_over_several_nodes_the_first_says_what_it_has_and_the_others_refer_to_it(tmp_path: Path) -> None:
    whole, storage = draft(4, replicated), Storage()
    staging = tmp_path / temporary_name(STEP, "0a1b2c3d")
    first = write_part(storage, staging, replace(whole, images=of(whole, 0, 1)), digests=True)
    bases = bases_in(staging, first)
    second = write_part(storage, staging, replace(whole, images=of(whole, 2, 3), bases=bases))
    assert second.image_size - second.size > 2 * 4 * LARGE
    parts, alone = [first, second], tmp_path / "alone"
    commit_parts(storage, tmp_path, staging, replace(whole, images={}), gather(staging, parts, 4), permit=lambda: None)
    alone.mkdir()
    commit(storage, alone, whole)
    for path in (alone / snapshot_name(STEP)).glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / snapshot_name(STEP) / path.name).read_bytes()
    assert read_back(LocalCopy(tmp_path / snapshot_name(STEP)), whole.images) == as_bytes(whole.images)
