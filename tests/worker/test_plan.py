"""What a capture reuses from the one before: never anything that has changed.

Every test takes an image, changes something, and takes another with the same capture; that one must equal the image
that a capture without a past takes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resilient.errors import StateError
from resilient.protocol.arena import Arena
from resilient.worker.capture import Capture
from resilient.worker.plan import Plan
from resilient.worker.rng import GlobalRandomState


class Box:
    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


class Training:
    """Objects of every kind, after a step."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
        self.model.add_module("tied", nn.Linear(4, 4, bias=False))
        self.tied.weight = self.first.weight
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.box = Box(
            {
                "n": 1,
                "x": 0.0,
                "ok": True,
                "text": "a",
                "t": torch.zeros(3),
                "a": np.zeros(2),
                "b": np.ones(1),
                "s": {1, 2},
            }
        )
        self.step()

    @property
    def first(self) -> nn.Linear:
        return self.model[0]  # type: ignore[return-value]

    @property
    def tied(self) -> nn.Linear:
        return self.model.tied  # type: ignore[return-value]

    @property
    def norm(self) -> nn.BatchNorm1d:
        return self.model[1]  # type: ignore[return-value]

    @property
    def weight(self) -> nn.Parameter:
        return self.model[2].weight  # type: ignore[return-value]

    def objects(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "box": self.box,
            "rng": GlobalRandomState(),
        }

    def step(self) -> None:
        self.model(torch.randn(8, 4)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.private(2)
    yield made
    made.close()


def image(arena: Arena, capture: Capture, step: int = 1) -> bytes:
    slot = arena.slots[0]
    capture.write(slot, step)
    content = bytes(slot.image)
    slot.void()
    return content


def settled(arena: Arena, objects: dict[str, Any]) -> Capture:
    """A capture that has found out all that it will reuse."""
    capture = Capture(objects, allow_pickle=False)
    for _ in range(5):
        image(arena, capture)
    return capture


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """All plans that are made from now on."""
    plans: list[Plan] = []

    class Noted(Plan):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            plans.append(self)

    monkeypatch.setattr("resilient.worker.capture.Plan", Noted)
    return plans


def test_an_unchanged_form_is_not_looked_at_anew(arena: Arena, made: list[Plan]) -> None:
    training = Training()
    capture = settled(arena, training.objects())
    made.clear()
    training.step()
    training.scheduler.step()
    training.box.state["n"] = 7
    image(arena, capture)
    assert not made
    training.box.state["new"] = 7
    image(arena, capture)
    assert made


CHANGES: dict[str, Callable[[Training], Any]] = {
    "a step": lambda t: t.step(),
    "the learning rate": lambda t: t.optimizer.param_groups[0].update(lr=0.025),
    "zero becomes minus zero": lambda t: t.box.state.update(x=-0.0),
    "a number becomes nan": lambda t: t.box.state.update(x=float("nan")),
    "an integer": lambda t: t.box.state.update(n=10**30),
    "true becomes one": lambda t: t.box.state.update(ok=1),
    "one becomes true": lambda t: t.box.state.update(n=True),
    "a text": lambda t: t.box.state.update(text="ä\0"),
    "a set": lambda t: t.box.state["s"].add(3),
    "a set gets a tensor": lambda t: t.box.state["s"].add(torch.ones(1)),
    "the scheduler": lambda t: t.scheduler.step(),
    "a key more": lambda t: t.box.state.update(new=None),
    "a key less": lambda t: t.box.state.pop("n"),
    "another order of keys": lambda t: t.box.state.update(n=t.box.state.pop("n")),
    "a tensor for a number": lambda t: t.box.state.update(n=torch.tensor(1)),
    "an array in place": lambda t: t.box.state["a"].fill(3),
    "another array": lambda t: t.box.state.update(a=np.ones(2)),
    "an array of another shape": lambda t: t.box.state.update(a=np.ones((2, 1))),
    "an array without shape": lambda t: t.box.state.update(b=np.array(1.0)),
    "an array of another type": lambda t: t.box.state.update(a=np.ones(2, np.int64)),
    "a tensor in place": lambda t: t.box.state["t"].fill_(3),
    "another tensor": lambda t: t.box.state.update(t=torch.ones(3)),
    "another shape": lambda t: t.box.state.update(t=torch.ones(3, 1)),
    "another type": lambda t: t.box.state.update(t=torch.ones(3, dtype=torch.float16)),
    "a tensor that vanishes": lambda t: t.box.state.update(t=torch.ones(0)),
    "a view of a parameter": lambda t: t.box.state.update(t=t.weight.detach()[0, :3]),
    "a parameter itself": lambda t: t.box.state.update(t=t.weight.detach()),
    "an array that is a parameter": lambda t: t.box.state.update(a=t.weight.detach().numpy()),
    "data replaced": lambda t: setattr(t.weight, "data", torch.ones(4, 4)),
    "data reinterpreted": lambda t: setattr(t.weight, "data", t.weight.data.view(torch.int32).view(torch.float32).T),
    "data shortened in place": lambda t: setattr(t.weight, "data", t.weight.data[:2]),
    "data transposed in place": lambda t: setattr(t.weight, "data", t.weight.data.T),
    "data of another type at one place": lambda t: setattr(
        t.box.state["t"], "data", t.box.state["t"].data.view(torch.int32)
    ),
    "set to other memory": lambda t: t.weight.detach().set_(torch.ones(16).untyped_storage()),
    "the model to float64": lambda t: t.model.double(),
    "a parameter replaced": lambda t: setattr(t.model[2], "weight", nn.Parameter(torch.ones(4, 4))),
    "untied": lambda t: setattr(t.tied, "weight", nn.Parameter(t.first.weight.detach().clone())),
    "tied": lambda t: setattr(t.model[2], "weight", t.first.weight),
    "tied by data": lambda t: setattr(t.weight, "data", t.first.weight.data),
    "loaded": lambda t: t.model.load_state_dict({k: v + 1 for k, v in t.model.state_dict().items()}),
    "loaded by assignment": lambda t: t.model.load_state_dict(copy.deepcopy(t.model.state_dict()), assign=True),
    "the optimizer loaded": lambda t: t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict())),
    "optimizer state by hand": lambda t: t.optimizer.state[t.weight].update(exp_avg=torch.ones(4, 4)),
    "optimizer state gone": lambda t: t.optimizer.state.pop(t.weight),
    "optimizer state more": lambda t: t.optimizer.state[t.weight].update(more=torch.ones(2)),
    "a group more": lambda t: t.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 1.0}),
    "a parameter less": lambda t: t.optimizer.state.pop(t.optimizer.param_groups[0]["params"].pop()),
    "frozen": lambda t: t.first.requires_grad_(False),
    "a buffer": lambda t: t.norm.reset_running_stats(),
    "a buffer replaced": lambda t: setattr(t.norm, "running_mean", torch.ones(4)),
    "a buffer registered": lambda t: t.model.register_buffer("more", torch.ones(2)),
    "a generator": lambda t: torch.rand(3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_in_the_next_image(arena: Arena, name: str) -> None:
    training = Training()
    capture = settled(arena, training.objects())
    before = image(arena, capture)
    CHANGES[name](training)
    after = [image(arena, capture, step) for step in (1, 2)]
    fresh = Capture(training.objects(), allow_pickle=False)
    assert after == [image(arena, fresh, step) for step in (1, 2)]
    if name not in {"frozen", "set to other memory", "loaded by assignment", "the optimizer loaded"}:
        assert after[0] != before


def test_loose_tensors_that_come_to_share_memory_are_still_all_there(arena: Arena) -> None:
    box = Box()
    capture = Capture({"box": box}, allow_pickle=False)
    for number in range(6):
        box.state = {"a": torch.full((3,), number), "b": torch.full((3,), -number)}
        image(arena, capture)
    shared = torch.tensor([1, 2, 3])
    box.state = {"a": shared, "b": shared}
    assert image(arena, capture) == image(arena, Capture({"box": box}, allow_pickle=False))
    box.state = {"a": torch.tensor([4, 5, 6]), "b": torch.tensor([7, 8, 9])}
    assert image(arena, capture) == image(arena, Capture({"box": box}, allow_pickle=False))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says that sparse CSR is young
@pytest.mark.parametrize("make", [lambda t: t.to_sparse(), lambda t: t.to_sparse_csr(), lambda t: t.to("meta")])
def test_a_tensor_that_can_no_longer_be_captured_is_named(arena: Arena, make: Callable[[torch.Tensor], Any]) -> None:
    box = Box({"t": torch.eye(2)})
    capture = settled(arena, {"box": box})
    box.state["t"] = make(box.state["t"])
    with pytest.raises(StateError, match=r"tensor at box\.t"):
        image(arena, capture)
    box.state["t"] = torch.eye(2)
    assert image(arena, capture) == image(arena, Capture({"box": box}, allow_pickle=False))


def test_a_value_that_can_no_longer_be_captured_is_named(arena: Arena) -> None:
    box = Box({"n": 1, "t": torch.eye(2)})
    capture = settled(arena, {"box": box})
    box.state["n"] = image
    with pytest.raises(StateError, match=r"box\.n is a .*function"):
        image(arena, capture)
    box.state["n"] = {"deep": box.state}
    with pytest.raises(StateError, match=r"box\.n\.deep.*deeper"):
        image(arena, capture)


def test_an_array_that_can_no_longer_be_captured_is_named(arena: Arena) -> None:
    box = Box({"a": np.zeros(2), "t": torch.eye(2)})
    capture = settled(arena, {"box": box})
    box.state["a"] = np.zeros(2, dtype=">f8")
    with pytest.raises(StateError, match=r"array at box\.a"):
        image(arena, capture)


def test_a_pickled_value_is_pickled_anew(arena: Arena) -> None:
    box = Box({"r": bytearray(b"abc"), "t": torch.eye(2)})
    capture = Capture({"box": box}, allow_pickle=True)
    before = image(arena, capture)
    box.state["r"].extend(b"d")
    assert image(arena, capture) != before
    assert image(arena, capture) == image(arena, Capture({"box": box}, allow_pickle=True))


def test_what_has_been_replaced_is_not_kept_alive_for_ever(arena: Arena) -> None:
    """State that is new at every capture would otherwise need twice its memory."""
    box = Box()
    capture = Capture({"box": box}, allow_pickle=False)
    for _ in range(5):
        box.state = {"t": torch.zeros(3, dtype=torch.float64)}
        image(arena, capture)
    array = np.zeros(3)
    memory = weakref.ref(array)
    box.state = {"t": torch.from_numpy(array)}
    image(arena, capture)
    box.state = None
    del array
    assert memory() is None
