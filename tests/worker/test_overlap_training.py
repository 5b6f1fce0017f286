"""Overlapped snapshots of every kind of training, each compared with a deep copy of the state at its boundary.

The copy is held back until training has gone as far as it may, and each training is followed over several snapshots,
so that what a capture reuses from the one before is reused here.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import schedulefree
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resilient.protocol.arena import Arena
from resilient.snapshot.compare import first_difference
from resilient.worker.capture import Capture
from resilient.worker.overlap import Copier, copy_all


class Box:
    """Any object with a state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


class Snapshots:
    """Takes overlapped snapshots of some objects, and says what they should hold."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self.objects = objects
        self.open = threading.Event()
        self.copier = Copier(self._copy)
        self.arena = Arena.private(2)
        self.capture = Capture(objects, allow_pickle=False)
        self.outcomes: list[bool] = []
        self._step = 0

    def _copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        assert self.open.wait(20), "nobody let the copy through"
        copy_all(targets, sources)

    def expected(self) -> bytes:
        """The image of a deep copy of the state, taken by a capture that knows nothing, not even parameters' names."""
        states = copy.deepcopy({name: item.state_dict() for name, item in self.objects.items()})
        slot = self.arena.slots[1]
        boxes = {name: Box(state) for name, state in states.items()}
        Capture(boxes, allow_pickle=False).write(slot, self._step + 1)
        return bytes(slot.image)

    def begin(self) -> None:
        self._step += 1
        self.open.clear()
        self.capture.write_overlapped(self.arena.slots[0], self._step, self.copier, self.outcomes.append)

    def image(self) -> bytes:
        self.open.set()
        self.copier.wait()
        return bytes(self.arena.slots[0].image)

    def close(self) -> None:
        self.open.set()
        self.copier.close()
        self.arena.close()


class Training:
    """A model and an optimizer. ``objects`` is all that a snapshot holds; ``train`` does a step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = self.make_model()
        self.optimizer = self.make_optimizer()
        self.steps = 0

    def make_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    def make_optimizer(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=0.1)

    @property
    def objects(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    def loss(self) -> torch.Tensor:
        result: torch.Tensor = self.model(torch.randn(4, 6)).square().mean()
        return result

    def train(self) -> None:
        self.steps += 1
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()


class SGD(Training):
    def make_optimizer(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)


class PlainAdam(Training):
    def make_optimizer(self) -> Any:
        return torch.optim.Adam(self.model.parameters(), lr=torch.tensor(0.1), foreach=False)


class Foreach(Training):
    def make_optimizer(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=0.1, foreach=True, amsgrad=True)


class Fused(Training):
    def make_optimizer(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)


class ScheduleFree(Training):
    """Evaluates before every boundary, and so changes the weights to and fro."""

    def make_optimizer(self) -> Any:
        return schedulefree.AdamWScheduleFree(self.model.parameters(), lr=0.1)

    def train(self) -> None:
        self.optimizer.train()
        super().train()
        self.optimizer.eval()
        self.loss()
        self.optimizer.train()


class Adversarial(Training):
    """Two optimizers that step in turn."""

    def make_optimizer(self) -> Any:
        self.critic = nn.Linear(3, 1)
        return [torch.optim.Adam(module.parameters(), lr=0.1) for module in (self.model, self.critic)]

    @property
    def objects(self) -> dict[str, Any]:
        first, second = self.optimizer
        return {"model": self.model, "critic": self.critic, "optimizer.0": first, "optimizer.1": second}

    def train(self) -> None:
        self.steps += 1
        self.critic(self.model(torch.randn(4, 6))).sum().backward()
        self.optimizer[self.steps % 2].step()
        for optimizer in self.optimizer:
            optimizer.zero_grad()


class InBackward(Training):
    """One optimizer for each parameter, which steps as soon as the gradient is there."""

    def make_optimizer(self) -> Any:
        made = {}
        for name, parameter in self.model.named_parameters():
            made[name] = torch.optim.AdamW([parameter], lr=0.1)
            parameter.register_post_accumulate_grad_hook(self._step_of(made[name]))  # type: ignore[no-untyped-call]
        return made

    @staticmethod
    def _step_of(optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None]:
        def step(_: torch.Tensor) -> None:
            optimizer.step()
            optimizer.zero_grad()

        return step

    @property
    def objects(self) -> dict[str, Any]:
        return {"model": self.model, **{f"optimizer.{name}": item for name, item in self.optimizer.items()}}

    def train(self) -> None:
        self.loss().backward()  # type: ignore[no-untyped-call]


class Averaged(Training):
    def make_optimizer(self) -> Any:
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
        return super().make_optimizer()

    @property
    def objects(self) -> dict[str, Any]:
        return {**super().objects, "ema": self.average}

    def train(self) -> None:
        self.average.update_parameters(self.model)  # before the step: nothing makes it wait
        super().train()


class Normalised(Training):
    def make_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


class Tied(Training):
    def make_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model[1].weight = model[0].weight
        return model


class Scaled(Training):
    def make_optimizer(self) -> Any:
        self.scaler = torch.amp.GradScaler("cpu", growth_interval=1)
        return super().make_optimizer()

    @property
    def objects(self) -> dict[str, Any]:
        return {**super().objects, "scaler": self.scaler}

    def train(self) -> None:
        self.scaler.scale(self.loss()).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


class SecondOrder(Training):
    """Its state is a dozen of tensors that are new ones at every step, and lists of them that grow."""

    def make_optimizer(self) -> Any:
        return torch.optim.LBFGS(self.model.parameters(), max_iter=2, history_size=3)

    def train(self) -> None:
        inputs = torch.randn(4, 6)

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss: torch.Tensor = self.model(inputs).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        self.optimizer.step(closure)


class Replacing(Training):
    """An optimizer whose state is replaced at every step, as in functional ones."""

    class Momentum(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                state = self.state[parameter]
                state["momentum"] = 0.9 * state.get("momentum", 0.0) + parameter.grad
                parameter.sub_(0.1 * state["momentum"])

    def make_optimizer(self) -> Any:
        return self.Momentum(self.model.parameters())


class Frozen(Training):
    """Half of the model is thawed in mid-run, and given to the optimizer."""

    def make_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
        model[0].requires_grad_(False)
        return model

    def make_optimizer(self) -> Any:
        return torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=0.1)

    def train(self) -> None:
        super().train()
        if self.steps == 4:
            frozen = [parameter for parameter in self.model.parameters() if not parameter.requires_grad]
            self.model.requires_grad_(True)
            self.optimizer.add_param_group({"params": frozen})
        if self.steps == 6:
            self.model.requires_grad_(False)
            next(self.model.parameters()).requires_grad_(True)


class Lazy(Training):
    """A branch that is used late: its optimizer state appears in mid-run."""

    def make_model(self) -> nn.Module:
        return nn.ModuleDict({"early": nn.Linear(6, 3), "late": nn.Linear(6, 3)})

    def loss(self) -> torch.Tensor:
        assert isinstance(self.model, nn.ModuleDict)
        result: torch.Tensor = self.model["late" if self.steps > 4 else "early"](torch.randn(4, 6)).square().mean()
        return result


class Shrinking(Training):
    def train(self) -> None:
        super().train()
        if self.steps == 4:
            self.optimizer.state.clear()
        if self.steps == 6:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


class Casting(Training):
    """The model changes its type in mid-run, under the optimizer's eyes."""

    def loss(self) -> torch.Tensor:
        dtype = next(self.model.parameters()).dtype
        result: torch.Tensor = self.model(torch.randn(4, 6, dtype=dtype)).square().mean()
        return result

    def make_optimizer(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)

    def train(self) -> None:
        super().train()
        if self.steps == 4:
            self.model.to(torch.bfloat16)


class Compiled(Training):
    def make_optimizer(self) -> Any:
        optimizer = super().make_optimizer()
        self.compiled = torch.compile(optimizer.step, backend="eager")
        return optimizer

    def train(self) -> None:
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.compiled()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()


class ChannelsLast(Training):
    def make_model(self) -> nn.Module:
        return nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def loss(self) -> torch.Tensor:
        result: torch.Tensor = self.model(torch.randn(2, 4, 5, 5)).square().mean()
        return result


class Views(Training):
    """Parameters lie in one flat buffer, and another object holds that buffer, a part of it, and odd views of it.

    None of these is owned by the optimizer, though they begin where parameters begin; the script writes to what lies
    beyond the parameters whenever it likes.
    """

    def make_model(self) -> nn.Module:
        model = nn.Linear(6, 3)
        self.flat = torch.randn(40)
        model.weight.data = self.flat[:18].view(3, 6)
        model.bias.data = self.flat[18:21]
        self.box = Box(
            {
                "flat": self.flat,
                "part": self.flat[:5],
                "again": model.weight.detach(),
                "expanded": self.flat[:1].expand(7),
                "strided": self.flat[::2],
                "beyond": self.flat[18:30],
            }
        )
        return model

    @property
    def objects(self) -> dict[str, Any]:
        return {"box": self.box, **super().objects}

    def train(self) -> None:
        self.flat.data[25:].add_(1)
        super().train()


TRAININGS = [value for value in list(vars().values()) if isinstance(value, type) and issubclass(value, Training)]


@pytest.fixture
def opened() -> Iterator[list[Snapshots]]:
    made: list[Snapshots] = []
    yield made
    for snapshots in made:
        snapshots.close()


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, about compiling and about its averages
@pytest.mark.parametrize("kind", TRAININGS, ids=lambda kind: kind.__name__)
def test_snapshots_hold_the_state_of_their_boundary(opened: list[Snapshots], kind: type[Training]) -> None:
    training = kind()
    for _ in range(2):
        training.train()
    snapshots = Snapshots(training.objects)
    opened.append(snapshots)
    seen = set()
    for _ in range(7):
        snapshots.objects.update(training.objects)
        expected = snapshots.expected()
        snapshots.begin()
        threading.Timer(0.02, snapshots.open.set).start()
        training.train()
        assert first_difference(snapshots.image(), expected) is None
        seen.add(expected)
    assert snapshots.outcomes == [True] * 7
    assert len(seen) == 7, "the training went on"


# --- what a script may do to a parameter while it is being copied


def _swapped_by_data(training: Training) -> None:
    for parameter in training.model.parameters():
        parameter.data.copy_(torch.zeros_like(parameter))


def _replaced_data(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = torch.zeros_like(parameter)


CHANGES: dict[str, Callable[[Training], Any]] = {
    "in place": lambda t: next(t.model.parameters()).detach().mul_(0.5),
    "clipped by data": lambda t: [p.data.clamp_(-1e-3, 1e-3) for p in t.model.parameters()],
    "swapped by data": _swapped_by_data,
    "data replaced": lambda t: t.model.apply(_replaced_data),
    "set to other memory": lambda t: next(t.model.parameters()).detach().set_(torch.zeros(36).untyped_storage()),
    "loaded": lambda t: t.model.load_state_dict({k: v + 1 for k, v in t.model.state_dict().items()}),
    "loaded by assignment": lambda t: t.model.load_state_dict(
        {k: v + 1 for k, v in t.model.state_dict().items()}, assign=True
    ),
    "the optimizer loaded": lambda t: t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict())),
    "optimizer state in place": lambda t: next(iter(t.optimizer.state.values()))["exp_avg"].zero_(),
    "optimizer state replaced": lambda t: next(iter(t.optimizer.state.values())).update(exp_avg=torch.zeros(6, 6)),
    "optimizer state's data replaced": lambda t: setattr(
        next(iter(t.optimizer.state.values()))["exp_avg"], "data", torch.zeros(6, 6)
    ),
    "the optimizer's counter": lambda t: next(iter(t.optimizer.state.values()))["step"].add_(1),
    "to float64": lambda t: t.model.double(),
}
VOID = {
    "in place",
    "clipped by data",
    "swapped by data",
    "loaded",
    "optimizer state in place",
    "the optimizer's counter",
}
EITHER = {"set to other memory", "to float64"}  # torch counts a change, though the memory stays as it was


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_by_hand_voids_the_copy_unless_it_leaves_the_memory_alone(opened: list[Snapshots], name: str) -> None:
    training = Training()
    training.train()
    snapshots = Snapshots(training.objects)
    opened.append(snapshots)
    for _ in range(2):
        snapshots.begin()
        snapshots.image()
    expected = snapshots.expected()
    snapshots.begin()
    CHANGES[name](training)
    image = snapshots.image()
    if name not in EITHER:
        assert snapshots.outcomes == [True, True, name not in VOID]
    if snapshots.outcomes[-1]:
        assert first_difference(image, expected) is None


def test_what_an_optimizer_has_let_go_of_is_copied_at_once(opened: list[Snapshots]) -> None:
    training = Casting()
    snapshots = Snapshots(training.objects)
    opened.append(snapshots)
    for _ in range(2):
        snapshots.begin()
        snapshots.image()
    parameters = training.optimizer.param_groups[0]["params"]
    let_go, parameters[0] = parameters[0], nn.Parameter(torch.zeros(1))
    expected = snapshots.expected()
    snapshots.begin()
    let_go.detach().mul_(2)
    assert first_difference(snapshots.image(), expected) is None
    assert snapshots.outcomes == [True] * 3
