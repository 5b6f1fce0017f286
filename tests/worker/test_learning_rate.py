"""A learning rate that is lowered while an optimizer steps: seen by nobody else, and put back whatever happens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from resilient.worker.learning_rate import LearningRate
from resilient.worker.overlap import Copier, copy_all

FACTOR = 0.3
Make = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]


@pytest.fixture
def lowered() -> Iterator[LearningRate]:
    made = LearningRate(FACTOR)
    made.open()
    yield made
    made.close()


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(3, 2, generator=generator)) for _ in range(2)]


def set_gradients(optimizer: torch.optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def values(optimizer: torch.optim.Optimizer) -> list[list[float]]:
    return [parameter.flatten().tolist() for group in optimizer.param_groups for parameter in group["params"]]


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda ps, f: torch.optim.SGD(ps, lr=0.5 * f, momentum=0.9),
    "adamw": lambda ps, f: torch.optim.AdamW(ps, lr=0.5 * f),
    "adamw, fused": lambda ps, f: torch.optim.AdamW(ps, lr=0.5 * f, fused=True),
    "adamw, tensor": lambda ps, f: torch.optim.AdamW(ps, lr=torch.tensor(0.5) * f, capturable=False, foreach=False),
    "groups": lambda ps, f: torch.optim.SGD([{"params": ps[:1], "lr": 0.5 * f}, {"params": ps[1:], "lr": 2 * f}]),
    "groups with one tensor": lambda ps, f: torch.optim.Adam(
        [{"params": ps[:1]}, {"params": ps[1:]}], lr=torch.tensor(0.5) * f, foreach=False
    ),
    "whole number": lambda ps, f: torch.optim.SGD(ps, lr=1 * f if f != 1 else 1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_as_if_the_rate_were_that_and_stays_what_it_was(name: str, lowered: LearningRate) -> None:
    ours = OPTIMIZERS[name](parameters(), 1.0)
    rates = [group["lr"] for group in ours.param_groups]
    numbers = [float(rate) for rate in rates]
    for step in range(5):
        set_gradients(ours, step)
        ours.step()
        assert all(group["lr"] is rate for group, rate in zip(ours.param_groups, rates, strict=True))
        assert [float(rate) for rate in rates] == numbers
    lowered.close()
    theirs = OPTIMIZERS[name](parameters(), FACTOR)
    for step in range(5):
        set_gradients(theirs, step)
        theirs.step()
    assert values(ours) == values(theirs)


def test_a_factor_of_one_touches_nothing() -> None:
    rate = LearningRate(1.0)
    rate.open()
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    set_gradients(optimizer, 0)
    optimizer.step()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    rate.close()


def test_nothing_is_left_of_it_afterwards() -> None:
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    rate = LearningRate(FACTOR)
    rate.open()
    rate.open()
    set_gradients(optimizer, 0)
    optimizer.step()
    rate.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    before = optimizer.param_groups[0]["params"][0].detach().clone()
    optimizer.step()
    assert torch.equal(optimizer.param_groups[0]["params"][0], before - optimizer.param_groups[0]["params"][0].grad)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "closed": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)),
    "chained": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 7),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=10),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
}


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_give_the_rates_that_they_would_give_without(name: str, tensor: bool, lowered: LearningRate) -> None:
    def rates() -> list[float]:
        rate: Any = torch.tensor(0.5) if tensor else 0.5
        optimizer = torch.optim.AdamW(parameters(), lr=rate, foreach=False)
        scheduler, found = SCHEDULERS[name](optimizer), []
        for step in range(8):
            set_gradients(optimizer, step)
            optimizer.step()
            scheduler.step(*([1.0] if name == "plateau" else []))
            found.append(float(optimizer.param_groups[0]["lr"]))
        return found

    ours = rates()
    lowered.close()
    assert ours == rates()


def test_a_closure_is_called_with_the_lowered_rate(lowered: LearningRate) -> None:
    del lowered
    parameter = nn.Parameter(torch.ones(2))
    optimizer, seen = torch.optim.LBFGS([parameter], lr=0.5), []

    def closure() -> float:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's stubs
    assert set(seen) == {0.5 * FACTOR}
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_step_that_a_scaler_leaves_out_changes_nothing(lowered: LearningRate) -> None:
    del lowered
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for finite in (False, True, False):
        optimizer.zero_grad()
        parameter = optimizer.param_groups[0]["params"][0]
        before = parameter.detach().clone()
        scaler.scale(parameter.sum() * (1.0 if finite else float("inf"))).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.param_groups[0]["lr"] == 1.0
        torch.testing.assert_close(parameter, before - (FACTOR if finite else 0.0))


def test_a_step_that_fails_leaves_nothing_behind(lowered: LearningRate) -> None:
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise RuntimeError("out of memory")
            return super().step(closure)

    for rate in (0.5, torch.tensor(0.5)):
        optimizer = Failing(parameters(), lr=rate)
        set_gradients(optimizer, 0)
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step()
        lowered.boundary()
        assert float(optimizer.param_groups[0]["lr"]) == 0.5
        for _ in range(2):  # and without a boundary in between nothing compounds
            with pytest.raises(RuntimeError, match="out of memory"):
                optimizer.step()
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.5 * FACTOR)
        optimizer.fails = False
        optimizer.step()
        assert float(optimizer.param_groups[0]["lr"]) == 0.5

    other = torch.optim.SGD(parameters(), lr=1.0)
    optimizer.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    parameter = other.param_groups[0]["params"][0]
    before = parameter.detach().clone()
    set_gradients(other, 0)
    other.step()
    torch.testing.assert_close(parameter, before - FACTOR * parameter.grad)
    assert float(optimizer.param_groups[0]["lr"]) == 0.5


def test_what_a_class_does_after_the_step_of_its_base_sees_the_same_rate(lowered: LearningRate) -> None:
    del lowered
    torch.optim.SGD(parameters(), lr=1.0)  # torch hooks into a class when it is first made
    seen: list[float] = []

    class Decaying(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            out = super().step(closure)
            seen.append(self.param_groups[0]["lr"])
            return out

    optimizer = Decaying(parameters(), lr=0.5)
    set_gradients(optimizer, 0)
    optimizer.step()
    assert seen == [0.5 * FACTOR]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_optimizer_within_another_is_not_lowered_twice(lowered: LearningRate) -> None:
    """As ZeRO does it: the groups of the inner one get the rates of the outer one at each step."""
    del lowered

    class Outer(torch.optim.Optimizer):
        def __init__(self, params: list[nn.Parameter]) -> None:
            super().__init__(params, {"lr": 1.0})
            self.inner = torch.optim.SGD(params, lr=1.0)

        def step(self, closure: Any = None) -> Any:
            self.inner.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            self.inner.step(closure)
            self.param_groups[0]["lr"] = self.inner.param_groups[0]["lr"]

    optimizer = Outer(parameters())
    parameter = optimizer.param_groups[0]["params"][0]
    for step in range(3):
        set_gradients(optimizer, step)
        before = parameter.detach().clone()
        optimizer.step()
        torch.testing.assert_close(parameter, before - FACTOR * parameter.grad)
        assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_rate_that_the_step_sets_itself_stays(lowered: LearningRate) -> None:
    del lowered

    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            out = super().step(closure)
            self.param_groups[0]["lr"] = 7.0
            return out

    optimizer = Own(parameters(), lr=1.0)
    set_gradients(optimizer, 0)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 7.0


def test_the_rate_of_a_tensor_does_not_change_before_the_copy_of_a_snapshot_has_ended(lowered: LearningRate) -> None:
    """The copier's hook is made later than ours, and still comes first."""
    del lowered
    rate = torch.tensor(0.5)
    optimizer = torch.optim.SGD(parameters(), lr=rate)
    target = torch.zeros(())
    verdicts: list[bool] = []
    seen: list[float] = []

    def slow(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        seen.extend(rate.item() for _ in range(1000))
        copy_all(targets, sources)

    set_gradients(optimizer, 0)
    optimizer.step()  # the optimizer is known by now
    copier = Copier(slow)
    try:
        copier.start([target], [rate], verdicts.append)
        optimizer.step()
        copier.wait()
    finally:
        copier.close()
    assert verdicts == [True]
    assert set(seen) == {0.5}
    assert target.item() == 0.5


def test_steps_without_an_optimizer_of_torch_are_warned_of(lowered: LearningRate) -> None:
    for _ in range(99):
        lowered.boundary()
    with pytest.warns(UserWarning, match=r"run\.lr_factor"):
        lowered.boundary()
    unmoved = LearningRate(1.0)
    unmoved.open()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            unmoved.boundary()


def test_the_state_that_is_taken_has_the_rate_of_the_script(lowered: LearningRate) -> None:
    del lowered
    optimizer = torch.optim.AdamW(parameters(), lr=torch.tensor(0.5), foreach=False)
    set_gradients(optimizer, 0)
    optimizer.step()
    state: Mapping[str, Any] = optimizer.state_dict()
    assert float(state["param_groups"][0]["lr"]) == 0.5
