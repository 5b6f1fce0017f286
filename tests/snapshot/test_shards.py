"""Tensors that lie in parts: the manifest tells of them, and what is exported is whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import SnapshotCorrupt
from resilient.snapshot import catalog, shards
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.export import export_object
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.shards import Part, Whole, distributed_in, runs
from tests.snapshot.test_manifest import MANIFEST, forged
from tests.spread import snapshot_of_ranks

Snapshot = tuple[Path, dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=[(2,), (2, 2)], ids=["sharded", "hybrid"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot_of_ranks(tmp_path_factory.mktemp("snapshots"), request.param)


def test_the_manifest_tells_of_every_tensor_that_is_spread(snapshot: Snapshot) -> None:
    path, wholes = snapshot
    found = catalog.verify(path)
    assert found.tensors["model.hidden.weight"].shape == (5, 6)
    parts = found.tensors["model.hidden.weight"].parts
    assert [(part.offsets, part.shape) for part in parts[:2]] == [((0, 0), (3, 6)), ((3, 0), (2, 6))]
    assert [part.rank for part in parts] == list(range(found.world_size))
    assert len(found.tensors["optimizer.state.3.exp_avg"].parts) == found.world_size // 2, "those without elements"
    spread = {name for name in wholes if not name.endswith(".step")}
    assert found.tensors.keys() == spread
    assert {name: whole.shape for name, whole in found.tensors.items()} == {n: wholes[n].shape for n in spread}


def test_what_is_exported_is_whole(snapshot: Snapshot, tmp_path: Path) -> None:
    path, wholes = snapshot
    export_object(LocalCopy(path), "model", tmp_path / "model.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")
    expected = {name.removeprefix("model."): whole for name, whole in wholes.items() if name.startswith("model.")}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    export_object(LocalCopy(path), "optimizer", tmp_path / "optimizer.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "optimizer.safetensors")
    assert all(torch.equal(loaded[f"state.{n}.exp_avg"], wholes[f"optimizer.state.{n}.exp_avg"]) for n in range(4))


def test_a_part_that_is_nowhere_is_missed(snapshot: Snapshot, tmp_path: Path) -> None:
    copy = LocalCopy(snapshot[0])
    copy.manifest = replace(copy.manifest, files=copy.manifest.files[::2])
    with pytest.raises(SnapshotCorrupt, match=r"parts of .* of object=model"):
        export_object(copy, "model", tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@given(data=st.data(), shape=st.lists(st.integers(0, 5), max_size=4))
def test_runs_put_a_part_where_it_belongs(data: st.DataObject, shape: list[int]) -> None:
    box = [sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length)))) for length in shape]
    whole = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    part = whole[tuple(slice(first, last) for first, last in box)]
    flat, found = part.flatten(), np.full(whole.size, -1)
    pieces = list(runs(shape, [first for first, _ in box], part.shape))
    for source, target, length in pieces:
        found[target : target + length] = flat[source : source + length]
    assert (found[flat] == flat).all()
    assert (found >= 0).sum() == part.size == sum(length for _, _, length in pieces)


def test_parts_in_a_manifest_are_read_as_they_were_written() -> None:
    whole = Whole("BF16", (4, 6), (Part(0, (0, 0), (4, 3)), Part(1, (0, 3), (4, 3))))
    known = replace(MANIFEST, tensors={"model.weight": whole})
    assert Manifest.from_bytes(known.to_bytes()) == known
    assert whole.size == 48
    assert "tensors" not in json.loads(MANIFEST.to_bytes())


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F33", "shape": [1], "parts": []},
        {"dtype": "F32", "shape": [4], "parts": [[0, [3], [2]]]},
        {"dtype": "F32", "shape": [4], "parts": [[0, [-1], [2]]]},
        {"dtype": "F32", "shape": [4], "parts": [[0, [0, 0], [2]]]},
        {"dtype": "F32", "shape": [-4], "parts": []},
        {"dtype": "F32", "shape": [4], "parts": [7]},
        {"dtype": "F32"},
        [],
    ],
)
def test_impossible_parts_are_refused(entry: object) -> None:
    with pytest.raises(SnapshotCorrupt, match="malformed"):
        Manifest.from_bytes(forged(lambda body: body.update(tensors={"x": entry})))


def test_very_many_parts_are_not_told_of(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = snapshot
    images = {number: memoryview(file.read_bytes()) for number, file in enumerate(sorted(path.glob("rank-*")))}
    assert distributed_in(images) == catalog.read_manifest(path).tensors
    monkeypatch.setattr(shards, "_MOST_PARTS", 10)
    assert distributed_in(images) == {}
    assert distributed_in({0: memoryview(b"no image")}) == {}
