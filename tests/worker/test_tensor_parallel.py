"""FSDP over tensor parallelism: parts that are strided in the whole, and come back, on the same ranks and on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from resilient.convert.dcp import SnapshotReader
from resilient.errors import StateError
from resilient.protocol import names
from resilient.protocol.arena import Arena, Slot
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.export import export_object
from resilient.snapshot.image import Layout, read_state
from resilient.snapshot.storage import Storage
from resilient.worker.capture import Capture, flatten_objects, restore
from resilient.worker.reshard import reshard
from tests.processes import in_ranks
from tests.spread import wholes_of

Tensors = dict[str, torch.Tensor]


class _Training:
    """:param mesh: none, one dimension for FSDP, or two: the second one is for tensor parallelism."""

    def __init__(self, mesh: DeviceMesh | None, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 5))
        if mesh is not None and mesh.ndim == 2:
            parallelize_module(self.model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        if mesh is not None:
            fully_shard(self.model, mesh=mesh if mesh.ndim == 1 else mesh["data"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.objects = flatten_objects({"model": self.model, "optimizer": self.optimizer})

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        self.model(torch.full((4, 6), 0.1 * number)).pow(2).sum().backward()
        self.optimizer.step()

    def wholes(self) -> Tensors:
        return wholes_of(self.model, self.optimizer)


def _equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _captured(objects: Any, step: int) -> Slot:
    slot = Arena.private(1).slots[0]
    Capture(objects, allow_pickle=False).write(slot, step)
    return slot


def _committed(folder: Path, slot: Slot, step: int) -> Path:
    """Of all ranks."""
    images: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(images, bytes(slot.image))
    if dist.get_rank() == 0:
        commit(Storage(), folder, Draft("spread", step, 0, {rank: memoryview(one) for rank, one in enumerate(images)}))
    dist.barrier()
    return folder / names.snapshot_name(step)


def _through_all(rank: int, folder: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    training = _Training(mesh, 0)
    for number in (1, 2):
        training.step(number)
    slot, wholes = _captured(training.objects, 2), training.wholes()
    described = dict(read_state(slot.image, Layout.parse(slot.image))["objects"]["model"]["$ordered"])["0.weight"]
    training.step(3)
    again = _Training(mesh, 1)
    restore(slot.image, again.objects, allow_pickle=False)
    assert _equal(again.wholes(), wholes)
    again.step(3)
    assert _equal(again.wholes(), training.wholes()), "it goes on bit for bit"

    path, flat = _committed(folder, slot, 2), init_device_mesh("cpu", (4,))
    for other in (flat, mesh):
        spread = _Training(other, 2)
        assert reshard(path, spread.objects, rank=rank, allow_pickle=False).step == 2
        assert _equal(spread.wholes(), wholes)
        path = _committed(folder / "other", _captured(spread.objects, 2), 2)  # now four shards, to be strided parts
    loaded = _Training(mesh, 3)
    loaded.step(1)
    state = {"model": loaded.model.state_dict(), "optimizer": loaded.optimizer.state_dict()}
    load_state(state, storage_reader=SnapshotReader(folder / names.snapshot_name(2)))
    loaded.model.load_state_dict(state["model"])
    loaded.optimizer.load_state_dict(state["optimizer"])
    assert _equal(loaded.wholes(), wholes)

    box = nn.Module()
    rows = torch.arange(8.0).reshape(4, 2)[rank // 2 :: 2]
    strided = DTensor.from_local(rows.clone(), mesh, [_StridedShard(0, split_factor=2), Replicate()])
    box.register_buffer("rows", strided)
    slot = _captured({"box": box}, 3)
    _committed(folder, slot, 3)
    strided.to_local().zero_()
    restore(slot.image, {"box": box}, allow_pickle=False)
    assert torch.equal(strided.to_local(), rows)
    with pytest.raises(StateError, match=r"box\.rows lies in parts"):
        reshard(folder / names.snapshot_name(3), {"box": box}, rank=rank, allow_pickle=False)
    return {"described": described["$dtensor"], "wholes": wholes}


def test_parts_of_both_kinds_come_back_here_and_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = in_ranks(4, tmp_path, _through_all, tmp_path)
    assert [one["described"]["offsets"] for one in found] == [[0, 0], [6, 0], [3, 0], [9, 0]]
    assert found[0]["described"]["placements"] == [["strided", 0, 2], ["shard", 0]]
    wholes, path = found[0]["wholes"], tmp_path / names.snapshot_name(2)
    alone = _Training(None, 4)
    reshard(path, alone.objects, rank=0, allow_pickle=False)
    assert _equal(alone.wholes(), wholes)
    export_object(LocalCopy(path), "model", tmp_path / "model.safetensors")
    assert _equal(
        {f"model.{name}": one for name, one in load_file(tmp_path / "model.safetensors").items()},
        {name: tensor for name, tensor in wholes.items() if name.startswith("model.")},
    )
    with pytest.raises(StateError, match="rows in parts"):
        export_object(LocalCopy(tmp_path / names.snapshot_name(3)), "box", tmp_path / "box.safetensors")
