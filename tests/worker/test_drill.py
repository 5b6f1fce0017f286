"""Faults inside a training process: in the step that was ordered, once, and leaving nothing changed but what they are
for.
"""

from __future__ import annotations

import faulthandler
import math
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resilient.protocol.board import Board, Flag, Word, WorkerPhase
from resilient.protocol.drill import DRILLED, Order, Record
from resilient.protocol.environment import PLACE, PLAN
from resilient.protocol.paths import RunPaths
from resilient.protocol.plan import RoundPlan
from resilient.worker import drill
from resilient.worker.drill import Injector
from resilient.worker.flip import Flips


class Training:
    """A model that is trained in this process, with what a worker's drill would hook into it."""

    def __init__(self, folder: Path, *, attached: bool = True, accumulate: int = 1) -> None:
        self.paths = RunPaths(folder)
        self.board = Board.create(folder / "rank-00000.board")
        if attached:
            self.board.raise_flag(Flag.ATTACHED)
        self.attached = attached
        self.accumulate = accumulate
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001)
        self.begin()

    def begin(self, rank: int = 0) -> None:
        """A new process of the same run."""
        injector = Injector(self.paths, rank, self.board)
        self.backward = injector.wrap_backward(torch.autograd.backward)
        self.injector = injector

    def step(self) -> tuple[float, float]:
        """One optimizer's step; returns the loss as the script would report it, and the norm of the gradients."""
        self.optimizer.zero_grad()
        self.injector.flips.before_forward(self.model)
        for _ in range(self.accumulate):
            loss = self.model(torch.ones(2, 4)).pow(2).mean() + 1.0
            self.backward(loss)
        self.injector.before_step(self.optimizer)
        norm = torch.stack([p.grad.norm() for p in self.model.parameters() if p.grad is not None]).norm().item()
        self.optimizer.step()
        self.injector.after_step(self.optimizer)
        if self.attached:
            self.board.beat(WorkerPhase.STEP, self.board[Word.STEP] + 1)
        return loss.item(), norm

    def done(self) -> Record | None:
        order = Order.read(self.paths)
        return Record.read(self.paths, order.id) if order is not None else None


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


def twin(tmp_path: Path) -> Training:
    (tmp_path / "twin").mkdir()
    return Training(tmp_path / "twin")


@pytest.mark.parametrize("attached", [True, False])
def test_nan_in_the_step_that_was_ordered(tmp_path: Path, attached: bool) -> None:
    training = Training(tmp_path, attached=attached)
    Order("nan", at=3).write(training.paths)
    losses = [training.step()[0] for _ in range(2)]
    assert all(map(math.isfinite, losses))
    assert training.done() is None
    loss, norm = training.step()
    assert math.isnan(loss)
    assert math.isnan(norm)
    done = training.done()
    assert done is not None
    assert done.step == 3
    assert "NaN in step 3 of rank 0" in done.what


def test_without_an_order_every_bit_is_what_it_was(tmp_path: Path, training: Training) -> None:
    plain = twin(tmp_path)
    plain.backward = torch.autograd.backward
    assert [training.step() for _ in range(5)] == [plain.step() for _ in range(5)]


def test_a_spike_multiplies_loss_gradients_and_learning_rate_for_its_steps(tmp_path: Path, training: Training) -> None:
    plain = twin(tmp_path)
    Order("spike", at=2, steps=2, factor=3.0).write(training.paths)
    assert training.step() == plain.step()
    before = training.model.weight.detach().clone()
    loss, norm = training.step()
    expected_loss, expected_norm = plain.step()
    assert loss == pytest.approx(3 * expected_loss)
    assert norm == pytest.approx(3 * expected_norm)
    moved = (training.model.weight - before).norm() / (plain.model.weight - before).norm()
    assert moved.item() == pytest.approx(9.0, rel=1e-4), "gradient and learning rate"
    assert training.optimizer.param_groups[0]["lr"] == 0.001
    second, third = training.step()[0], training.step()[0]
    assert second > 2 * third, "the second step of two has it, the third has not"


def test_while_gradients_are_accumulated_all_backward_passes_of_the_step_have_it(tmp_path: Path) -> None:
    training, plain = Training(tmp_path, accumulate=3), twin(tmp_path)
    plain.accumulate = 3
    Order("spike", at=1, factor=2.0).write(training.paths)
    assert training.step()[1] == pytest.approx(2 * plain.step()[1])


def test_once_and_not_again_in_the_next_round(training: Training) -> None:
    Order("nan", at=1).write(training.paths)
    training.step()
    done = training.done()
    training.begin()
    training.board[Word.STEP] = 0
    training.model.reset_parameters()
    assert math.isfinite(training.step()[0])
    assert training.done() == done
    Order("nan", at=1).write(training.paths)
    assert training.done() is None
    assert math.isnan(training.step()[0])


def test_another_rank_is_not_meant(training: Training) -> None:
    Order("nan", rank=1).write(training.paths)
    assert math.isfinite(training.step()[0])
    training.begin(rank=1)
    assert math.isnan(training.step()[0])


def test_a_hang_lasts_as_long_as_it_is_to(training: Training) -> None:
    Order("hang", seconds=0.01).write(training.paths)
    training.step()
    assert training.done() is not None


@pytest.mark.parametrize(("fault", "number"), [("segv", signal.SIGSEGV), ("abort", signal.SIGABRT)])
def test_a_crash_is_a_real_one(training: Training, fault: str, number: signal.Signals) -> None:
    Order(fault).write(training.paths)
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()  # pytest's; what it writes is for crashes nobody wanted
        training.injector.before_step(training.optimizer)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number
    assert training.done() is not None


def test_without_a_group_an_allocation_fails_and_the_limit_is_as_before(training: Training) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    Order("oom").write(training.paths)
    with pytest.raises(MemoryError):
        training.step()
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    training.step()


def flips(training: Training, steps: int = 5) -> tuple[list[float], list[float]]:
    """Losses and norms."""
    done = [training.step() for _ in range(steps)]
    return [loss for loss, _ in done], [norm for _, norm in done]


def test_a_bit_of_the_loss_is_flipped_and_nothing_else(tmp_path: Path, training: Training) -> None:
    Order("flip", at=3, what="loss", bit=20).write(training.paths)
    (losses, norms), (expected, expected_norms) = flips(training), flips(twin(tmp_path))
    assert [one != other for one, other in zip(losses, expected, strict=True)] == [False, False, True, False, False]
    assert norms == expected_norms
    done = training.done()
    assert done is not None
    assert (done.step, done.what) == (3, "bit 20 flips in a loss in step 3 of rank 0")


@pytest.mark.parametrize(("what", "loss_too"), [("gradient", False), ("weight", True)])
def test_a_bit_of_a_gradient_or_a_weight_is_flipped_and_stays_in_the_state(
    tmp_path: Path, training: Training, what: str, loss_too: bool
) -> None:
    Order("flip", at=3, what=what, bit=25).write(training.paths)
    (losses, norms), (expected, expected_norms) = flips(training), flips(twin(tmp_path))
    assert losses[:2] == expected[:2]
    assert (losses[2] != expected[2]) is loss_too
    assert norms[2] != expected_norms[2]
    assert losses[3] != expected[3], "from then on all is different"


def test_a_transient_flip_is_not_done_again_in_the_next_round(tmp_path: Path, training: Training) -> None:
    Order("flip", at=1, what="loss", bit=20).write(training.paths)
    flips(training, 1)
    training.begin()
    training.board[Word.STEP] = 0
    training.model.load_state_dict(twin(tmp_path).model.state_dict())
    (tmp_path / "other").mkdir()
    assert flips(training, 2) == flips(Training(tmp_path / "other"), 2)


def test_a_persistent_flip_is_done_in_every_pass_of_its_step_but_not_elsewhere(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: value.clone() for name, value in training.model.state_dict().items()}
    Order("flip", at=2, what="loss", bit=20, persistent=True).write(training.paths)

    def again() -> list[float]:
        training.begin()
        training.board[Word.STEP] = 0
        training.model.load_state_dict(state)
        return flips(training, 3)[0]

    first = again()
    assert again() == first
    monkeypatch.setenv(PLACE, "elsewhere")
    elsewhere = again()
    assert [one != other for one, other in zip(first, elsewhere, strict=True)] == [False, True, False]
    monkeypatch.setenv(PLACE, "here")
    assert again() == first


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """What would have been registered."""
    found: list[Callable[..., Any]] = []
    monkeypatch.setattr(drill, "register_optimizer_step_pre_hook", found.append)
    monkeypatch.setattr(drill, "register_optimizer_step_post_hook", found.append)
    monkeypatch.setattr(Flips, "arm", lambda flips: found.append(flips.arm))
    monkeypatch.setattr(torch.autograd, "backward", torch.autograd.backward)
    return found


def test_armed_is_only_the_run_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooks: list[Callable[..., Any]]
) -> None:
    Board.create(tmp_path / "rank-00000.board").close()
    plan = tmp_path / "plan.json"
    RoundPlan("mine", str(tmp_path / "mine"), 0, str(tmp_path)).write(plan)
    backward = torch.autograd.backward
    monkeypatch.setenv(DRILLED, str(tmp_path / "mine"))
    drill.arm()
    assert hooks == [], "no supervisor"
    monkeypatch.setenv(PLAN, str(plan))
    monkeypatch.setenv(DRILLED, str(tmp_path / "other"))
    drill.arm()
    assert hooks == []
    assert torch.autograd.backward is backward
    monkeypatch.setenv(DRILLED, str(tmp_path / "mine"))
    drill.arm()
    assert len(hooks) == 3
    assert torch.autograd.backward is not backward
