"""What a rank spends on its own: data and forward passes, and nothing else."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from resilient.worker.own_work import OwnWork


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(nn.Module):
    """Takes a second on a clock of its own."""

    clock = Clock()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Slow.clock.now += 1.0
        return self.layer(x)  # type: ignore[no-any-return]  # torch's stubs


class Bench:
    def __init__(self) -> None:
        self.clock = Slow.clock = Clock()
        self.model = Slow()
        self.work = OwnWork({"model": self.model, "optimizer": object()}, lambda: Slow.clock.now)  # cannot be pickled

    def batches(self, seconds: float) -> Iterator[torch.Tensor]:
        while True:
            self.clock.now += seconds
            yield torch.ones(1, 1)

    def step(self, *, data: float = 0.0, forwards: int = 1) -> tuple[int, float, float]:
        batch = self.work.fetch(self.batches(data))
        for _ in range(forwards):
            self.model(batch).sum().backward()
        self.clock.now += 50.0  # others are waited for
        return self.work.of_step()


def test_data_and_forward_passes_are_counted_and_what_others_take_is_not() -> None:
    assert Bench().step(data=3.0) == (1, 3.0, 1.0)


def test_all_forward_passes_of_a_step_count() -> None:
    assert Bench().step(forwards=4) == (1, 0.0, 4.0)


def test_later_steps_are_smoothed() -> None:
    bench = Bench()
    bench.step(data=1.0)
    steps, data, compute = bench.step(data=2.0, forwards=3)
    assert steps == 2
    assert [data, compute] == pytest.approx([1.1, 1.2])
    for _ in range(100):
        _, data, compute = bench.step(data=2.0, forwards=3)
    assert [data, compute] == pytest.approx([2.0, 3.0], rel=0.01)


def test_an_evaluation_is_no_part_of_a_step() -> None:
    bench = Bench()
    bench.work.counts = False
    bench.model(torch.ones(1, 1))
    bench.work.counts = True
    assert bench.step() == (1, 0.0, 1.0)


def test_a_forward_pass_that_fails_leaves_nothing_behind() -> None:
    bench = Bench()
    with pytest.raises(RuntimeError):
        bench.model(torch.ones(1, 7))
    assert bench.step() == (1, 0.0, 1.0)


def _pickled(model: nn.Module) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled])
def test_a_copy_of_the_model_is_not_measured(copied: Callable[[nn.Module], nn.Module]) -> None:
    bench = Bench()
    bench.step()
    average = copied(bench.model)
    average(torch.ones(1, 1))
    assert bench.step()[2] == 1.0


def test_without_a_model_the_data_is_measured() -> None:
    clock = Clock()
    work = OwnWork({"optimizer": object()}, clock)
    work.fetch(iter([1]))
    assert work.of_step() == (1, 0.0, 0.0)
