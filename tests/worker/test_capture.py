"""From live objects to an image and back: everything as it was, or an error that names the object."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim import lr_scheduler

from resilient.errors import SnapshotCorrupt, StateError, UsageError
from resilient.protocol.arena import Arena, Slot, SlotState
from resilient.snapshot.image import Layout
from resilient.worker.capture import Capture, flatten_objects, restore
from resilient.worker.overlap import Copier
from resilient.worker.rng import GlobalRandomState, seed_cpu


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.private(2)
    yield made
    made.close()


class Box:
    """Any object with a state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


class Network(nn.Module):
    """Tied weights, a buffer, a normalisation with running statistics, and a weight in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight
        self.counter: torch.Tensor
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.counter.add_(1)
        hidden = self.embed(tokens).reshape(-1, 4, 2, 2)
        result: torch.Tensor = self.head(self.norm(self.conv(hidden)).mean((2, 3)))
        return result


class Scaler:
    """Shaped like ``torch.amp.GradScaler``: a few numbers, refused when they are not there."""

    def __init__(self) -> None:
        self.scale = 65536.0
        self.growth_tracker = 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "growth_factor": 2.0, "_growth_tracker": self.growth_tracker}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:
            raise RuntimeError("the state is empty")
        self.scale, self.growth_tracker = state["scale"], state["_growth_tracker"]


@dataclass
class Training:
    """A small training run."""

    optimizer_type: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    scheduler_type: Callable[[torch.optim.Optimizer], Any] | None = None
    model: Network = field(init=False)

    def __post_init__(self) -> None:
        self.model = Network()
        self.optimizer = self.optimizer_type(self.model.parameters(), lr=0.05)
        make = self.scheduler_type or (lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.5))
        self.scheduler = make(self.optimizer)
        self.scaler = Scaler()
        self.random = GlobalRandomState()

    def objects(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "rng": self.random,
        }

    def step(self) -> float:
        loss = self.model(torch.randint(0, 8, (3, 4))).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(loss)
        else:
            self.scheduler.step()
        self.scaler.growth_tracker += 1
        return float(loss.item())


def take(arena: Arena, objects: Mapping[str, Any], step: int = 1, capture: Capture | None = None) -> Slot:
    slot = arena.next_free()
    assert slot is not None
    (capture or Capture(objects, allow_pickle=False)).write(slot, step)
    slot.complete(arena.next_sequence(), {}, hold=False)
    return slot


def same(one: Any, other: Any) -> bool:
    """Equal trees, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype is other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


# --- everything comes back


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "Adam, amsgrad": lambda parameters, lr: torch.optim.Adam(parameters, lr, amsgrad=True),
    "SGD": torch.optim.SGD,
    "SGD, momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True),
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr, momentum=0.9, centered=True),
    "NAdam": torch.optim.NAdam,
    "Adafactor": torch.optim.Adafactor,
    "lr as tensor": lambda parameters, lr: torch.optim.AdamW(parameters, torch.tensor(lr)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_training_goes_on_bit_for_bit(arena: Arena, name: str) -> None:
    seed_cpu(7)
    training = Training(OPTIMIZERS[name])
    for _ in range(3):
        training.step()
    slot = take(arena, training.objects(), step=3)
    expected = [training.step() for _ in range(4)]
    seed_cpu(99)
    resumed = Training(OPTIMIZERS[name])
    assert restore(slot.image, resumed.objects(), allow_pickle=False) == 3
    assert [resumed.step() for _ in range(4)] == expected
    for one, other in zip(training.objects().values(), resumed.objects().values(), strict=True):
        if not isinstance(one, GlobalRandomState):
            assert same(one.state_dict(), other.state_dict())
    assert same(training.random.state_dict()["torch"], resumed.random.state_dict()["torch"])


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 2, 5], 0.5),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 3, cycle_momentum=False),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [3],
    ),
    "ChainedScheduler": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # some schedulers warn about how torch itself calls them
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_goes_on_as_if_nothing_had_happened(arena: Arena, name: str) -> None:
    seed_cpu(7)
    training = Training(scheduler_type=SCHEDULERS[name])
    for _ in range(2):
        training.step()
    slot = take(arena, training.objects())
    rates = [(training.step(), training.optimizer.param_groups[0]["lr"]) for _ in range(5)]
    resumed = Training(scheduler_type=SCHEDULERS[name])
    restore(slot.image, resumed.objects(), allow_pickle=False)
    assert [(resumed.step(), resumed.optimizer.param_groups[0]["lr"]) for _ in range(5)] == rates


def test_the_gradient_scaler_of_torch_comes_back(arena: Arena) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    slot = take(arena, {"scaler": scaler, "anchor": Box(torch.zeros(1))})
    fresh = torch.amp.GradScaler("cpu")
    restore(slot.image, {"scaler": fresh, "anchor": Box()}, allow_pickle=False)
    assert fresh.state_dict() == scaler.state_dict()
    assert fresh.get_scale() == 1024.0


def test_a_model_without_parameters_and_one_that_is_frozen_come_back(arena: Arena) -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    slot = take(arena, {"frozen": frozen, "nothing": nn.Identity()})
    other = nn.Linear(2, 2).requires_grad_(False)
    restore(slot.image, {"frozen": other, "nothing": nn.Identity()}, allow_pickle=False)
    assert torch.equal(other.weight, frozen.weight)
    assert not other.weight.requires_grad


def test_the_image_is_a_safetensors_file_with_readable_names(arena: Arena) -> None:
    training = Training()
    training.step()
    slot = take(arena, training.objects())
    found = safetensors.torch.load(bytes(slot.image))
    assert torch.equal(found["model.embed.weight"], training.model.embed.weight)
    assert {"model.norm.running_mean", "model.counter", "optimizer.state.0.exp_avg", "rng.torch"} <= found.keys()
    assert "model.scratch" not in found


def test_tied_weights_are_stored_once_and_stay_tied(arena: Arena) -> None:
    training = Training()
    slot = take(arena, training.objects())
    names = [name for name in Layout.parse(slot.image).tensors if name in {"model.embed.weight", "model.head.weight"}]
    assert names == ["model.embed.weight"]
    resumed = Training()
    restore(slot.image, resumed.objects(), allow_pickle=False)
    assert resumed.model.head.weight is resumed.model.embed.weight
    assert torch.equal(resumed.model.head.weight, training.model.head.weight)


# --- whose memory


def test_what_is_restored_does_not_look_at_the_slot(arena: Arena) -> None:
    training = Training()
    training.step()
    box = Box({"ema": torch.ones(5), "history": [torch.ones(2), {"x": torch.arange(6.0).reshape(2, 3).mT}]})
    slot = take(arena, {**training.objects(), "box": box})
    resumed, other = Training(), Box()
    restore(slot.image, {**resumed.objects(), "box": other}, allow_pickle=False)
    before = copy.deepcopy([resumed.model.state_dict(), resumed.optimizer.state_dict(), other.state])
    slot.image[:] = b"\xff" * len(slot.image)
    assert same([resumed.model.state_dict(), resumed.optimizer.state_dict(), other.state], before)


class WithExtraState(nn.Module):
    """A module with a state that is neither parameter nor buffer, and that it keeps as it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.average = torch.ones(3)

    def get_extra_state(self) -> Any:
        return {"average": self.average}

    def set_extra_state(self, state: Any) -> None:
        self.average = state["average"]


def test_nor_does_the_extra_state_of_a_module(arena: Arena) -> None:
    slot = take(arena, {"model": WithExtraState()})
    model = WithExtraState()
    restore(slot.image, {"model": model}, allow_pickle=False)
    slot.image[:] = bytes(len(slot.image))
    assert model.average.tolist() == [1.0] * 3
    assert model.weight.tolist() == [1.0] * 2


def test_what_is_captured_does_not_change_with_the_objects(arena: Arena) -> None:
    training = Training()
    training.step()
    before = copy.deepcopy(training.model.state_dict())
    slot = take(arena, training.objects())
    for _ in range(3):
        training.step()
    resumed = Training()
    restore(slot.image, resumed.objects(), allow_pickle=False)
    assert same(resumed.model.state_dict(), before)


def test_one_capture_fills_all_slots_in_turn_with_what_is_there_at_the_time(arena: Arena) -> None:
    box = Box({"t": torch.zeros(3), "n": 0})
    capture = Capture({"box": box}, allow_pickle=False)
    for step in range(1, 8):
        box.state["t"] += 1
        box.state["n"] = step
        slot = take(arena, {}, step, capture)
        found = Box()
        assert restore(slot.image, {"box": found}, allow_pickle=False) == step
        assert found.state["n"] == step
        assert found.state["t"].tolist() == [float(step)] * 3
        older = arena.find(step - 1)
        if older is not None:
            assert restore(older.image, {"box": found}, allow_pickle=False) == step - 1
            assert found.state["t"].tolist() == [float(step - 1)] * 3


def test_state_that_grows_gets_a_larger_image(arena: Arena) -> None:
    """Both kinds: text that outgrows its place, and tensors that were not there at first, as with an optimizer."""
    box = Box({"log": "x", "t": torch.zeros(1)})
    capture = Capture({"box": box}, allow_pickle=False)
    sizes = []
    for step, (text, count) in enumerate([("x", 1), ("x" * 50_000, 1), ("x" * 50_001, 1), ("y", 20_000), ("y", 1)]):
        box.state = {"log": text, "t": torch.full((count,), float(step))}
        slot = take(arena, {}, step, capture)
        found = Box()
        restore(slot.image, {"box": found}, allow_pickle=False)
        assert same(found.state, box.state)
        sizes.append(slot.info().size)
    assert sizes[0] < sizes[1] == sizes[2]
    assert sizes[3] > sizes[4]


def test_an_optimizer_that_makes_its_state_in_the_first_step_is_captured_before_and_after(arena: Arena) -> None:
    training = Training()
    capture = Capture(training.objects(), allow_pickle=False)
    for step in range(3):
        slot = take(arena, {}, step, capture)
        resumed = Training()
        restore(slot.image, resumed.objects(), allow_pickle=False)
        assert same(resumed.optimizer.state_dict(), training.optimizer.state_dict())
        training.step()


# --- what does not fit


def test_a_state_that_cannot_be_captured_is_named_and_costs_no_slot(arena: Arena) -> None:
    kept = take(arena, {"box": Box({"t": torch.ones(1)})})
    slot = arena.next_free()
    assert slot is not None
    with pytest.raises(StateError, match=r"box\.callback is a .*function"):
        Capture({"box": Box({"callback": take})}, allow_pickle=False).write(slot, 2)
    assert slot.info().state is SlotState.EMPTY
    assert arena.newest() is kept


def test_pickled_state_needs_permission_on_both_ways(arena: Arena) -> None:
    box = Box({"range": range(3), "anchor": torch.zeros(1)})
    slot = arena.next_free()
    assert slot is not None
    Capture({"box": box}, allow_pickle=True).write(slot, 1)
    slot.complete(1, {}, hold=False)
    with pytest.raises(StateError, match="can execute code"):
        restore(slot.image, {"box": Box()}, allow_pickle=False)
    found = Box()
    restore(slot.image, {"box": found}, allow_pickle=True)
    assert found.state["range"] == range(3)


class Wider(Network):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(2, 2)


def _other_model(objects: dict[str, Any]) -> None:
    objects["model"] = Wider()


def _other_shape(objects: dict[str, Any]) -> None:
    model = Network()
    model.norm = nn.BatchNorm2d(5)
    objects["model"] = model


def _other_groups(objects: dict[str, Any]) -> None:
    first, *rest = Network().parameters()
    objects["optimizer"] = torch.optim.AdamW([{"params": [first]}, {"params": rest}])


def _empty_scaler(objects: dict[str, Any]) -> None:
    class Demanding(Scaler):
        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            raise KeyError("_per_device")

    objects["scaler"] = Demanding()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_model, r"state of model does not fit the script's Wider.*extra\.weight"),
        (_other_shape, r"state of model does not fit the script's Network.*norm"),
        (_other_groups, r"state of optimizer does not fit the script's AdamW"),
        (_empty_scaler, r"state of scaler does not fit the script's Demanding.*_per_device"),
    ],
)
def test_an_object_that_does_not_fit_is_named(
    arena: Arena, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    training = Training()
    training.step()
    slot = take(arena, training.objects())
    objects = Training().objects()
    change(objects)
    with pytest.raises(StateError, match=f"(?s){words}") as raised:
        restore(slot.image, objects, allow_pickle=False)
    assert "run.id" in raised.value.remedy


def test_objects_that_are_missing_or_too_many_are_named(arena: Arena) -> None:
    slot = take(arena, {"model": Box(torch.ones(1)), "ema": Box(1)})
    with pytest.raises(StateError, match=r"no state for scaler and state for ema, which"):
        restore(slot.image, {"model": Box(), "scaler": Box()}, allow_pickle=False)
    with pytest.raises(StateError, match=r"the snapshot has state for ema, which"):
        restore(slot.image, {"model": Box()}, allow_pickle=False)


def test_an_error_of_ours_from_an_object_is_passed_on_as_it_is(arena: Arena) -> None:
    class Strict(Box):
        def load_state_dict(self, state: Any) -> None:
            raise UsageError("the position does not fit")

    slot = take(arena, {"position": Box(torch.ones(1))})
    with pytest.raises(UsageError, match="the position does not fit"):
        restore(slot.image, {"position": Strict()}, allow_pickle=False)


# --- damaged images


def test_a_damaged_image_is_corrupt(arena: Arena) -> None:
    slot = take(arena, {"box": Box({"t": torch.ones(1)})})
    whole = bytes(slot.image)
    layout = Layout.parse(whole)
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"\0" * len(whole)):
        with pytest.raises(SnapshotCorrupt):
            restore(memoryview(damaged), {"box": Box()}, allow_pickle=False)
    for state in (b"[]", b"3", b"{}", b'{"step": "1", "objects": {}}', b'{"step": 1, "objects": []}', b"{", b""):
        memory = bytearray(whole)
        memory[layout.state.offset : layout.state.end] = state.ljust(layout.state.spec.size)
        with pytest.raises(SnapshotCorrupt):
            restore(memoryview(memory), {"box": Box()}, allow_pickle=False)


def test_a_state_that_names_a_tensor_which_is_not_there_is_corrupt(arena: Arena) -> None:
    slot = take(arena, {"box": Box({"t": torch.ones(1)})})
    layout = Layout.parse(slot.image)
    state = bytes(slot.image[layout.state.offset : layout.state.end]).replace(b"box.t", b"box.u")
    slot.image[layout.state.offset : layout.state.end] = state
    with pytest.raises(SnapshotCorrupt, match=r"malformed \$tensor"):
        restore(slot.image, {"box": Box()}, allow_pickle=False)


# --- naming the objects


def test_lists_and_dictionaries_of_objects_get_dotted_names() -> None:
    boxes = [Box(number) for number in range(5)]
    found = flatten_objects(
        {
            "model": boxes[0],
            "optimizer": [boxes[1], None, boxes[2]],
            "others": {"a": boxes[3], 1: (boxes[4],)},
            "scheduler": None,
        }
    )
    assert found == {
        "model": boxes[0],
        "optimizer.0": boxes[1],
        "optimizer.2": boxes[2],
        "others.a": boxes[3],
        "others.1.0": boxes[4],
    }


def test_two_objects_under_one_name_are_refused() -> None:
    with pytest.raises(StateError, match=r"two objects are registered under the one name a\.0"):
        flatten_objects({"a": [Box()], "a.0": Box()})


@pytest.mark.parametrize("value", [3, "model", object(), math.pi])
def test_an_object_without_state_is_refused_by_name(value: Any) -> None:
    with pytest.raises(StateError, match=r"nets\.0 is a .* no state_dict"):
        flatten_objects({"nets": [value]})


# --- into what is there


def test_an_optimizer_that_has_its_state_already_gets_it_back_in_the_same_memory(arena: Arena) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        model(torch.ones(3)).sum().backward()
        optimizer.step()

    step()
    slot = arena.slots[0]
    capture = Capture({"optimizer": optimizer}, allow_pickle=False)
    capture.write(slot, 1)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    addresses = [value.data_ptr() for state in optimizer.state.values() for value in state.values()]
    step()
    restore(slot.image, {"optimizer": optimizer}, allow_pickle=False)
    assert [value.data_ptr() for state in optimizer.state.values() for value in state.values()] == addresses
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[index][key], after[index][key]) for index in before for key in before[index])
    slot.image[:] = bytes(len(slot.image))
    assert all(torch.equal(before[index][key], after[index][key]) for index in before for key in before[index])


def test_state_that_shares_memory_is_not_written_over(arena: Arena) -> None:
    """Two tensors of the snapshot that have come to share memory since: each must get its own values back."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for index, parameter in enumerate(parameters):
        optimizer.state[parameter]["mark"] = torch.full((2,), float(index + 1))
    slot = arena.slots[0]
    Capture({"optimizer": optimizer}, allow_pickle=False).write(slot, 1)
    shared = torch.zeros(4)
    optimizer.state[parameters[0]]["mark"] = shared[:2]
    optimizer.state[parameters[1]]["mark"] = shared[2:]
    restore(slot.image, {"optimizer": optimizer}, allow_pickle=False)
    assert [optimizer.state[parameter]["mark"].tolist() for parameter in parameters] == [[1.0, 1.0], [2.0, 2.0]]
    assert shared.tolist() == [0.0] * 4


# --- going to disk meanwhile


class Watched:
    """What a slot has said is final, and what that was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefixes: list[bytes] = []
        self.held: list[bool] = []
        real = Slot.reached

        def reached(slot: Slot, size: int) -> None:
            real(slot, size)
            self.prefixes.append(bytes(slot.image[:size]))
            self.held.append(slot.info().growing)

        monkeypatch.setattr(Slot, "reached", reached)
        monkeypatch.setattr("resilient.worker.capture._PIECE", 64)

    def assert_grew_to(self, image: bytes) -> None:
        """Bit by bit, from the header on, and nothing has changed that was said to be final."""
        sizes = [len(prefix) for prefix in self.prefixes]
        assert len(sizes) > 8
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == len(image)
        assert all(image.startswith(prefix) for prefix in self.prefixes)
        assert self.held == [False] + [True] * (len(sizes) - 1), "handed over before the first tensor is copied"


def test_an_image_that_goes_to_disk_meanwhile_grows_and_is_the_same(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training()
    training.step()
    expected = bytes(take(arena, training.objects()).image)
    watched = Watched(monkeypatch)
    slot = arena.slots[1]
    Capture(training.objects(), allow_pickle=False).write(slot, 1, grow=True)
    watched.assert_grew_to(bytes(slot.image))
    assert bytes(slot.image) == expected
    assert slot.info().growing


def test_what_is_copied_at_once_lies_between_what_is_copied_later_and_is_final_with_it(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training()
    training.step()
    expected = bytes(take(arena, training.objects()).image)
    watched = Watched(monkeypatch)
    slot, copier = arena.slots[1], Copier()
    outcomes: list[bool] = []
    capture = Capture(training.objects(), allow_pickle=False)
    capture.write_overlapped(slot, 1, copier, outcomes.append, grow=True)
    copier.wait()
    training.model.norm.running_mean.add_(1)  # type: ignore[union-attr]
    copier.close()
    assert outcomes == [True]
    watched.assert_grew_to(bytes(slot.image))
    assert bytes(slot.image) == expected


def test_a_state_without_tensors_grows_in_one_piece(arena: Arena) -> None:
    slot = arena.slots[0]
    Capture({"box": Box({"a": 1})}, allow_pickle=False).write(slot, 1, grow=True)
    assert slot.info().growing
    assert slot.info().reached == slot.info().size
