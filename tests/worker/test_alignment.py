"""Which step boundaries are aligned: those at which no gradient is half accumulated."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from resilient.worker.alignment import Alignment


class Watched:
    """A model with two optimizers, watched; times are what the test says."""

    def __init__(self, **others: Any) -> None:
        self.model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        self.first = torch.optim.SGD(self.model[0].parameters(), lr=0.1)
        self.second = torch.optim.AdamW(self.model[1].parameters())
        self.now = 0.0
        objects = {"model": self.model, "optimizer.0": self.first, "optimizer.1": self.second, **others}
        self.alignment = Alignment(objects, lambda: self.now)
        self.alignment.open()

    def backward(self) -> None:
        self.model(torch.ones(2, 3)).sum().backward()


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.alignment.close()


def test_before_the_first_step_all_is_aligned(watched: Watched) -> None:
    assert watched.alignment.aligned


def test_accumulated_gradients_are_not_aligned_until_an_optimizer_steps(watched: Watched) -> None:
    for _ in range(3):
        watched.backward()
        assert not watched.alignment.boundary()
        assert not watched.alignment.aligned
    watched.backward()
    watched.first.step()
    assert watched.alignment.boundary()  # though the gradients are still there: they are cleared in the next step
    watched.first.zero_grad()
    watched.backward()
    assert not watched.alignment.boundary()


def test_either_of_two_optimizers_counts(watched: Watched) -> None:
    for optimizer in (watched.first, watched.second, watched.first):
        watched.backward()
        optimizer.step()
        assert watched.alignment.boundary()


def test_a_step_without_gradients_is_aligned(watched: Watched) -> None:
    assert watched.alignment.boundary()
    watched.backward()
    watched.first.zero_grad()
    watched.second.zero_grad()
    assert watched.alignment.boundary()


def test_the_step_of_an_optimizer_that_is_not_registered_does_not_count(watched: Watched) -> None:
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    watched.backward()
    other.step()
    assert not watched.alignment.boundary()


class Engine:
    """Sums up gradients by itself, as those of frameworks do."""

    def __init__(self) -> None:
        self.summed = 0

    def holds_gradients(self) -> bool:
        return self.summed > 0


def test_an_object_says_that_it_holds_gradients() -> None:
    engine = Engine()
    watched = Watched(engine=engine)
    assert watched.alignment.boundary()
    engine.summed = 1
    assert not watched.alignment.boundary()
    watched.first.step()  # of what another has applied
    assert not watched.alignment.boundary()
    engine.summed = 0
    assert watched.alignment.boundary()
    watched.alignment.close()


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another, as accelerate makes it."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()


def test_the_step_of_an_optimizer_inside_a_registered_wrapper_counts() -> None:
    parameter = nn.Parameter(torch.ones(1))
    wrapper = Wrapper(torch.optim.SGD([parameter], lr=0.1))
    alignment = Alignment({"optimizer": wrapper}, lambda: 0.0)
    alignment.open()
    parameter.grad = torch.ones(1)
    assert not alignment.boundary()
    wrapper.step()
    assert alignment.boundary()
    alignment.close()


def test_without_optimizers_every_boundary_is_aligned() -> None:
    model = nn.Linear(2, 1)
    alignment = Alignment({"model": model}, lambda: 0.0)
    alignment.open()
    model(torch.ones(1, 2)).sum().backward()
    assert alignment.boundary()


def test_a_scaler_that_skips_the_step_counts_as_a_step() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    watched = Watched(scaler=scaler)
    for _ in range(2):
        scaler.scale(watched.model(torch.full((2, 3), 1e30)).sum()).backward()
        assert not watched.alignment.boundary()
        before = copy.deepcopy(watched.model.state_dict())
        scaler.scale(watched.model(torch.full((2, 3), 1e30)).sum()).backward()
        scaler.step(watched.first)
        scaler.update()
        after = watched.model.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before), "the test wants a skipped step"
        assert watched.alignment.boundary()
    watched.alignment.close()


def test_waiting_for_very_long_is_warned_of_once(watched: Watched) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(1, 1001):
            watched.alignment.kept_waiting(step)
        watched.alignment.taken()
        watched.alignment.kept_waiting(1001)
        watched.now = 599.0
        watched.alignment.kept_waiting(1002)
    watched.now = 600.0
    with pytest.warns(UserWarning, match="due for 2 steps.*accumulate"):
        watched.alignment.kept_waiting(1003)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watched.alignment.kept_waiting(9999)


@pytest.mark.filterwarnings("ignore:a snapshot has been due")
def test_where_no_step_is_ever_seen_waiting_has_an_end(watched: Watched) -> None:
    """Steps in a CUDA graph, for example; or a hook that an optimizer does not call."""
    watched.backward()
    watched.alignment.kept_waiting(1)
    assert not watched.alignment.boundary()
    watched.alignment.kept_waiting(1001)
    assert watched.alignment.boundary()
    assert not watched.alignment.seen
    watched.first.step()
    assert watched.alignment.boundary()
    assert watched.alignment.seen
    assert not watched.alignment.boundary()  # a step has been seen, so the next will be, too


@pytest.mark.filterwarnings("ignore:a snapshot has been due")
def test_where_steps_have_been_seen_and_are_no_more_waiting_has_an_end_too(watched: Watched) -> None:
    """A graph that was made after some steps: nothing would be snapshot again, and nothing may be overlapped."""
    watched.first.step()
    assert watched.alignment.boundary()
    watched.backward()
    watched.alignment.kept_waiting(1)
    watched.now = 1e6  # steps may take as long as they like
    watched.alignment.kept_waiting(1000)
    assert not watched.alignment.boundary()
    watched.alignment.kept_waiting(1001)
    assert watched.alignment.boundary()
    assert not watched.alignment.seen
    watched.first.step()
    assert watched.alignment.boundary()
    assert not watched.alignment.boundary()


def test_the_hook_is_gone_after_closing() -> None:
    before = len(_global_optimizer_post_hooks)
    watched = Watched()
    watched.alignment.open()
    assert len(_global_optimizer_post_hooks) == before + 1
    watched.alignment.close()
    watched.alignment.close()
    assert len(_global_optimizer_post_hooks) == before
