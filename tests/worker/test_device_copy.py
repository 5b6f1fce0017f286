"""How copies on an accelerator are ordered with the host: decided in one place for every device, and tested here.

The device is a queue: work happens in order, when the test lets it happen, while the host goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import nn

from resilient.protocol.arena import Arena, SlotState
from resilient.worker.overlap import Copier


class Queue:
    """A device's work, in the order in which it happens."""

    def __init__(self) -> None:
        self.work: list[str] = []
        self.happens = threading.Event()


class QueuedCopy:
    """A copy of tensors on the device into a slot."""

    def __init__(self, queue: Queue, guarded: Sequence[torch.Tensor]) -> None:
        self.guarded = guarded
        self.may_issue = threading.Event()
        self.may_issue.set()
        self._queue = queue

    def issue(self) -> None:
        assert self.may_issue.wait(20)
        self._queue.work.append("copy")

    def order(self) -> None:
        self._queue.work.append("wait for the copy")

    def wait(self) -> None:
        assert self._queue.happens.wait(20)


class Bench:
    """A parameter on the device, and the optimizer that changes it by work for the device."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.parameter = nn.Parameter(torch.ones(3))
        self.optimizer = torch.optim.SGD([self.parameter], lr=0.1)
        self.copier = Copier()
        self.arena = Arena.private(2)
        self.slot = self.arena.slots[0]
        self.outcomes: list[bool] = []
        self.device = QueuedCopy(self.queue, [self.parameter])

    def begin(self) -> None:
        self.slot.begin(1, 100)
        self.copier.start([], [], self._done, self.device)

    def _done(self, unchanged: bool) -> None:
        self.outcomes.append(unchanged)
        if unchanged:
            self.slot.complete(1, {}, hold=False)
        else:
            self.slot.void()

    def step(self) -> None:
        self.parameter.grad = torch.ones(3)
        self.optimizer.step()
        self.queue.work.append("step")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.device.may_issue.set()
    made.queue.happens.set()
    made.copier.close()
    made.arena.close()


def test_the_step_is_put_in_line_behind_the_copy_and_the_host_does_not_wait_for_it(bench: Bench) -> None:
    bench.begin()
    bench.step()  # would never return, were it to wait until the copy has happened
    assert bench.queue.work == ["copy", "wait for the copy", "step"]
    assert bench.slot.info().state is SlotState.WRITING
    bench.queue.happens.set()
    bench.copier.wait()
    assert bench.slot.info().complete


def test_the_step_waits_until_the_copy_is_in_line(bench: Bench) -> None:
    bench.device.may_issue.clear()
    bench.begin()
    threading.Timer(0.05, bench.device.may_issue.set).start()
    bench.step()
    assert bench.queue.work == ["copy", "wait for the copy", "step"]


def test_the_steps_own_changes_are_not_held_against_the_copy(bench: Bench) -> None:
    bench.begin()
    bench.step()
    bench.step()
    bench.queue.happens.set()
    bench.copier.wait()
    assert bench.outcomes == [True]


@pytest.mark.parametrize("then", [Bench.step, lambda bench: None], ids=["then a step", "then nothing"])
def test_a_change_by_hand_before_the_step_voids_the_copy(bench: Bench, then: Callable[[Bench], None]) -> None:
    bench.begin()
    bench.parameter.detach().mul_(2)
    then(bench)
    bench.queue.happens.set()
    bench.copier.wait()
    assert bench.outcomes == [False]
    assert bench.slot.info().state is SlotState.EMPTY


def test_every_optimizer_that_steps_is_put_in_line(bench: Bench) -> None:
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    bench.begin()
    other.step()
    bench.step()
    assert bench.queue.work == ["copy", "wait for the copy", "wait for the copy", "step"]


def test_an_error_of_the_device_reaches_the_training_thread_at_its_next_step(bench: Bench) -> None:
    def fail() -> None:
        raise MemoryError("the device has none left")

    bench.device.issue = fail  # type: ignore[method-assign]
    bench.begin()
    with pytest.raises(MemoryError, match="the device has none left"):
        bench.step()
    assert bench.slot.info().state is SlotState.WRITING
    bench.step()  # and once is enough
