"""Snapshots are checkpoints of torch.distributed.checkpoint, for any number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.nn.parallel import DistributedDataParallel

from resilient.convert.dcp import SnapshotReader
from resilient.drill.faults import flip_bit
from resilient.protocol import names
from resilient.protocol.arena import Arena
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.worker.capture import Capture
from resilient.worker.rng import GlobalRandomState
from tests.processes import in_ranks
from tests.spread import Training, mesh_of, snapshot_of_ranks

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    return snapshot_of_ranks(tmp_path_factory.mktemp("two"), (2,))


@pytest.fixture(scope="module")
def by_two_times_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    return snapshot_of_ranks(tmp_path_factory.mktemp("hybrid"), (2, 2))


def _equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def _load(training: Training, path: Path) -> Tensors:
    """Into the objects' own states, as numbers count the parameters there."""
    state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    load_state(state, storage_reader=SnapshotReader(path))
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    return training.wholes()


def _load_by_name(training: Training, path: Path) -> Tensors:
    """The way of torch's own examples."""
    model, optimizer = get_state_dict(training.model, training.optimizer)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    load_state(state, storage_reader=SnapshotReader(path))
    set_state_dict(
        training.model, training.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return training.wholes()


def _resharded(rank: int, path: Path, shape: tuple[int, ...]) -> list[Tensors]:
    found = []
    for load in (_load, _load_by_name):
        training = Training(mesh_of(shape), 9)
        training.step(50, rank)
        training.optimizer.param_groups[0]["lr"] = 0.5
        found.append(load(training, path))
        assert training.optimizer.param_groups[0]["lr"] == 0.1
    return found


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (2, 2)])
def test_two_parts_become_others(by_two: tuple[Path, Tensors], tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, wholes = by_two
    for found in in_ranks(torch.Size(shape).numel(), tmp_path, _resharded, path, shape):
        assert all(_equal(tensors, wholes) for tensors in found)


def test_replicas_of_parts_become_parts(by_two_times_two: tuple[Path, Tensors], tmp_path: Path) -> None:
    path, wholes = by_two_times_two
    for found in in_ranks(2, tmp_path, _resharded, path, (2,)):
        assert all(_equal(tensors, wholes) for tensors in found)


@pytest.mark.parametrize("load", [_load, _load_by_name])
def test_one_process_without_any_group(by_two: tuple[Path, Tensors], load: Any) -> None:
    path, wholes = by_two
    training = Training(None, 9)
    training.step(50, 0)
    assert _equal(load(training, path), wholes)


def test_the_model_alone(by_two: tuple[Path, Tensors]) -> None:
    path, wholes = by_two
    model = Training(None, 9).model
    state = {"model": model.state_dict()}
    load_state(state, storage_reader=SnapshotReader(path))
    model.load_state_dict(state["model"])
    assert all(torch.equal(tensor, wholes[f"model.{name}"]) for name, tensor in model.state_dict().items())


def test_a_snapshot_of_one_process_is_spread(tmp_path: Path) -> None:
    training = Training(None, 0)
    training.step(1, 0)
    path = _committed(tmp_path, {"model": training.model, "optimizer": training.optimizer})
    wholes = training.wholes()
    for found in in_ranks(2, tmp_path, _resharded, path, (2,)):
        assert all(_equal(tensors, wholes) for tensors in found)


def _committed(folder: Path, objects: dict[str, Any]) -> Path:
    arena = Arena.private(1)
    Capture(objects, allow_pickle=False).write(arena.slots[0], 1)
    commit(Storage(), folder, Draft("demo", 1, 0, {0: arena.slots[0].image}))
    arena.close()
    return folder / names.snapshot_name(1)


def test_generators_and_odd_values_come_as_they_were(tmp_path: Path) -> None:
    class Box:
        def state_dict(self) -> Any:
            return {"pair": (torch.arange(3), np.arange(4)), "set": {1, 2}, "bytes": b"x", "list": [1.5, None]}

        def load_state_dict(self, state: Any) -> None: ...

    generators = GlobalRandomState()
    path = _committed(tmp_path, {"box": Box(), "rng": generators})
    expected = generators.state_dict()
    wanted: dict[str, Any] = {
        "box": dict.fromkeys(("pair", "set", "bytes", "list")),
        "rng": {"torch": torch.empty_like(expected["torch"]), "numpy": {"state": {"key": None}}},
    }
    load_state(wanted, storage_reader=SnapshotReader(path))
    assert torch.equal(wanted["rng"]["torch"], expected["torch"])
    assert (wanted["rng"]["numpy"]["state"]["key"] == expected["numpy"]["state"]["key"]).all()
    box = wanted["box"]
    assert torch.equal(box["pair"][0], torch.arange(3))
    assert (box["pair"][1] == np.arange(4)).all()
    assert (box["set"], box["bytes"], box["list"]) == ({1, 2}, b"x", [1.5, None])


def _wrapped(rank: int, folder: Path) -> Path | None:
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return _committed(folder, {"model": model, "optimizer": optimizer}) if rank == 0 else None


def test_without_the_wrapper_that_it_had(tmp_path: Path) -> None:
    path, _ = in_ranks(2, tmp_path, _wrapped, tmp_path)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    parts = get_state_dict(model, optimizer)
    state: dict[str, Any] = dict(zip(("model", "optimizer"), parts, strict=True))
    load_state(state, storage_reader=SnapshotReader(path))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    torch.manual_seed(0)
    expected = torch.nn.Linear(3, 2)
    assert torch.equal(model.weight, expected.weight - 0.1 * torch.ones(2, 3))
    assert torch.equal(optimizer.state[model.weight]["momentum_buffer"], torch.ones(2, 3))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_damage_and_missing_parts_are_found(by_two: tuple[Path, Tensors], tmp_path: Path) -> None:
    path = tmp_path / names.snapshot_name(3)
    shutil.copytree(by_two[0], path)
    image = sorted(path.glob("rank-*"))[1]
    flip_bit(image, image.stat().st_size // 2)
    state = {"model": Training(None, 9).model.state_dict()}
    with pytest.raises(CheckpointException, match="checksum mismatch"):
        load_state(state, storage_reader=SnapshotReader(path))
