"""Going on with another number of ranks: the same tensors, wherever their parts have to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from resilient.errors import StateError
from resilient.protocol import names
from resilient.protocol.arena import Arena
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.worker.capture import Capture, flatten_objects
from resilient.worker.reshard import fresh_generators, reshard
from resilient.worker.rng import GlobalRandomState
from tests.processes import in_ranks
from tests.spread import Training, mesh_of, snapshot_of_ranks

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    return snapshot_of_ranks(tmp_path_factory.mktemp("two"), (2,))


def _equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def _loaded(rank: int, path: Path, shape: tuple[int, ...]) -> list[Tensors]:
    """Into objects that have been trained, and into those that have not."""
    found = []
    for steps in (0, 1):
        training = Training(mesh_of(shape), 9)
        for number in range(steps):
            training.step(50 + number, rank)
        resharded = reshard(path, training.objects, rank=rank, allow_pickle=False)
        assert (resharded.step, resharded.new_rank) == (3, rank >= 2)
        assert isinstance(training.optimizer.state_dict()["state"][0]["exp_avg"], DTensor)
        found.append(training.wholes())
        training.step(60, rank)  # and it can be trained
    return found


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2)])
def test_two_parts_become_others(by_two: tuple[Path, Tensors], tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, wholes = by_two
    for found in in_ranks(torch.Size(shape).numel(), tmp_path, _loaded, path, shape):
        assert all(_equal(tensors, wholes) for tensors in found)


def test_parts_become_one(by_two: tuple[Path, Tensors]) -> None:
    path, wholes = by_two
    training = Training(None, 9)
    assert reshard(path, training.objects, rank=0, allow_pickle=False).step == 3
    assert _equal(training.wholes(), wholes)


def test_one_becomes_parts(tmp_path: Path) -> None:
    training = Training(None, 0)
    training.step(1, 0)
    path = _committed(tmp_path, training.objects, 3)
    for found in in_ranks(2, tmp_path, _loaded_from_one, path):
        assert _equal(found, training.wholes())


def _committed(folder: Path, objects: Any, step: int) -> Path:
    arena = Arena.private(1)
    Capture(objects, allow_pickle=False).write(arena.slots[0], step)
    commit(Storage(), folder, Draft("demo", step, 0, {0: arena.slots[0].image}))
    arena.close()
    return folder / names.snapshot_name(step)


def _loaded_from_one(rank: int, path: Path) -> Tensors:
    training = Training(mesh_of((2,)), 9)
    assert reshard(path, training.objects, rank=rank, allow_pickle=False).new_rank == (rank == 1)
    return training.wholes()


def test_new_ranks_draw_other_numbers_always_the_same(tmp_path: Path) -> None:
    path = _committed(tmp_path, {"rng": GlobalRandomState()}, 1)

    class Held:
        state: Any = None

        def state_dict(self) -> Any:
            return {}

        def load_state_dict(self, state: Any) -> None:
            self.state = state

    held = Held()
    assert reshard(path, {"rng": held}, rank=3, allow_pickle=False).new_rank
    before = torch.get_rng_state()
    others = [fresh_generators(held.state, rank) for rank in (2, 3, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(others[0]["torch"], others[1]["torch"])
    assert not torch.equal(others[0]["torch"], held.state["torch"])
    assert torch.equal(others[1]["torch"], others[2]["torch"])
    GlobalRandomState().load_state_dict(others[1])
    assert (torch.get_rng_state() == others[1]["torch"]).all()


def test_another_model_is_refused_by_name(by_two: tuple[Path, Tensors]) -> None:
    other = torch.nn.Linear(3, 3)
    objects = flatten_objects({"model": other, "optimizer": torch.optim.AdamW(other.parameters())})
    with pytest.raises(StateError, match="state of model does not fit"):
        reshard(by_two[0], objects, rank=0, allow_pickle=False)
    with pytest.raises(StateError, match="which the script does not register"):
        reshard(by_two[0], {"model": other}, rank=0, allow_pickle=False)
