"""Models whose parameters are spread over ranks: each image has its rank's parts, and they come back bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from resilient.errors import StateError, UsageError
from resilient.protocol.arena import Arena, Slot
from resilient.snapshot.image import Layout, read_state
from resilient.worker.capture import Capture, restore
from resilient.worker.overlap import Copier, copy_all
from resilient.worker.reporting import Reporter
from tests.processes import in_ranks
from tests.spread import Training


def _taken(arena: Arena, training: Training, step: int) -> Slot:
    slot = arena.next_free()
    assert slot is not None
    training.capture.write(slot, step)
    slot.complete(arena.next_sequence(), {}, hold=False)
    return slot


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def _captured_and_restored(rank: int, shape: tuple[int, ...], names: tuple[str, ...]) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    training, arena = Training(mesh, 0), Arena.private(2)
    for number in range(3):
        training.step(number, rank)
    _taken(arena, training, 2)
    plan = training.capture._plan
    slot = _taken(arena, training, 3)
    assert plan is not None
    assert training.capture._plan is plan, "the second capture begins where the first one was"
    at_capture = training.parts()
    for number in range(3, 6):
        training.step(number, rank)
    other = Training(mesh, 1)
    other.step(77, rank)
    assert not _same(other.parts(), at_capture)
    assert restore(slot.image, other.objects, allow_pickle=False) == 3
    assert _same(other.parts(), at_capture)
    assert isinstance(other.optimizer.state_dict()["state"][0]["exp_avg"], DTensor)
    for number in range(3, 6):
        other.step(number, rank)
    assert _same(other.parts(), training.parts())
    fresh = Training(mesh, 2)  # whose optimizer has no state yet
    restore(slot.image, fresh.objects, allow_pickle=False)
    assert _same(fresh.parts(), at_capture)
    layout = Layout.parse(slot.image)
    state = read_state(slot.image, layout)
    state["placed"] = {name: place.spec.shape for name, place in layout.tensors.items()}
    return dict(state)


def test_two_ranks_store_their_parts_and_get_them_back(tmp_path: Path) -> None:
    first, second = in_ranks(2, tmp_path, _captured_and_restored, (2,), ("shard",))
    model = [dict(state["objects"]["model"]["$ordered"]) for state in (first, second)]
    assert first["meshes"] == [{"device": "cpu", "shape": [2], "names": ["shard"], "ranks": [0, 1]}]
    names = ("embed.weight", "hidden.weight", "hidden.bias", "last.weight", "last.bias")
    assert first["parameters"] == {"optimizer": [f"model.{name}" for name in names]}
    assert [one["hidden.weight"] for one in model] == [
        {
            "$dtensor": {
                "local": {"$tensor": "model.hidden.weight"},
                "shape": [5, 6],
                "stride": [6, 1],
                "offsets": [offset, 0],
                "mesh": 0,
                "placements": [["shard", 0]],
            }
        }
        for offset in (0, 3)
    ]
    assert [state["placed"]["model.hidden.weight"] for state in (first, second)] == [(3, 6), (2, 6)]
    assert [state["placed"]["model.last.weight"] for state in (first, second)] == [(1, 7), (0, 7)]
    assert model[0]["head.weight"]["$dtensor"]["local"] == {"$tensor": "model.embed.weight"}, "stored once"
    assert model[1]["scale"]["$dtensor"]["placements"] == [["replicate"]]


def test_hybrid_sharding_on_two_by_two_ranks(tmp_path: Path) -> None:
    states = in_ranks(4, tmp_path, _captured_and_restored, (2, 2), ("replicate", "shard"))
    hidden = [dict(state["objects"]["model"]["$ordered"])["hidden.weight"]["$dtensor"] for state in states]
    assert [part["offsets"] for part in hidden] == [[0, 0], [3, 0], [0, 0], [3, 0]]
    assert hidden[0]["placements"] == [["replicate"], ["shard", 0]]
    assert states[3]["meshes"][0]["ranks"] == [0, 1, 2, 3]


class _Late:
    """Copies when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, targets: Any, sources: Any) -> None:
        self.go.wait(60)
        copy_all(targets, sources)


def _changed_while_copied(rank: int) -> list[bool]:
    """Verdicts: of a copy that nothing happens to, and of those with changes at three places."""
    training = Training(init_device_mesh("cpu", (2,)), 0)
    training.step(0, rank)
    weight = training.model.hidden.weight
    assert isinstance(weight, DTensor)
    moment = training.optimizer.state[weight]["exp_avg"]
    changes: list[Callable[[], Any]] = [
        lambda: None,
        lambda: weight.mul_(1),  # where only the versions tell
        lambda: weight.to_local().mul_(1),
        lambda: moment.mul_(1),
    ]
    arena = Arena.private(2)
    verdicts: list[bool] = []
    for change in changes:
        late = _Late()
        copier = Copier(late)
        slot = arena.next_free()
        assert slot is not None
        training.capture.write_overlapped(slot, 1, copier, verdicts.append)
        with torch.no_grad():
            change()
        late.go.set()
        copier.close()
        slot.void()
    late = _Late()
    copier = Copier(late)
    slot = arena.next_free()
    assert slot is not None
    training.capture.write_overlapped(slot, 1, copier, verdicts.append)
    before = training.parts()
    threading.Timer(0.2, late.go.set).start()
    training.step(1, rank)  # waits for the copy
    assert not _same(training.parts(), before)
    copier.close()
    slot.complete(arena.next_sequence(), {}, hold=False)
    restore(slot.image, training.objects, allow_pickle=False)
    assert _same(training.parts(), before)
    return verdicts


def test_parameters_are_copied_while_the_step_runs_and_changes_are_seen(tmp_path: Path) -> None:
    for verdicts in in_ranks(2, tmp_path, _changed_while_copied):
        assert verdicts == [True, False, False, False, True]


def _refused(rank: int) -> list[str]:
    del rank
    mesh = init_device_mesh("cpu", (2,))
    training, arena = Training(mesh, 0), Arena.private(2)
    slot = _taken(arena, training, 1)
    told = []
    with pytest.raises(StateError) as other_mesh:
        restore(
            slot.image,
            Training(init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b")), 0).objects,
            allow_pickle=False,
        )
    told.append(str(other_mesh.value))
    summand = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    box = nn.Module()
    box.register_buffer("sum", summand)
    with pytest.raises(StateError) as partial:
        Capture({"box": box}, allow_pickle=False).write(slot, 2)
    told.append(str(partial.value))
    box.register_buffer(
        "sum",
        DTensor.from_local(torch.ones(2 + mesh.get_local_rank()), mesh, [Shard(0)], shape=torch.Size([5]), stride=(1,)),
    )
    Capture({"box": box}, allow_pickle=False).write(slot, 3)
    [(_, described)] = read_state(slot.image, Layout.parse(slot.image))["objects"]["box"]["$ordered"]
    assert described["$dtensor"]["offsets"] is None, "it was cut otherwise than torch would"
    restore(slot.image, {"box": box}, allow_pickle=False)
    return told


def test_what_cannot_be_taken_or_given_back_is_refused(tmp_path: Path) -> None:
    for other_mesh, partial in in_ranks(2, tmp_path, _refused):
        assert "spread over a mesh of [2] ranks" in other_mesh
        assert "box.sum" in partial


def _reported(rank: int) -> list[Any]:
    del rank
    mesh = init_device_mesh("cpu", (2,))
    reporter = Reporter()
    reporter.add(1, {"loss": DTensor.from_local(torch.tensor(2.5), mesh, [Replicate()])})
    with pytest.raises(UsageError) as error:
        reporter.add(1, {"norm": DTensor.from_local(torch.tensor(2.5), mesh, [Partial()])})
    return [reporter.ready(before=2)[0].values, str(error.value)]


def test_a_metric_is_one_number(tmp_path: Path) -> None:
    for values, error in in_ranks(2, tmp_path, _reported):
        assert values == {"loss": 2.5}
        assert "report norm.full_tensor()" in error
