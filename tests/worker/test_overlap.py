"""An overlapped snapshot holds the state of its step boundary, whatever training does while it is being copied.

Each test holds the copy back until training has gone as far as it may: a copy that is in time by luck proves nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from resilient.protocol.arena import Arena, Slot
from resilient.worker.capture import Capture, restore
from resilient.worker.overlap import Copier, copy_all
from resilient.worker.ownership import owned_by_optimizers


class Gate:
    """A copy that does not begin before it is let through."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        assert self._open.wait(20), "nobody let the copy through"
        copy_all(targets, sources)

    def open(self) -> None:
        self._open.set()

    def open_after(self, seconds: float) -> None:
        threading.Timer(seconds, self.open).start()


class Bench:
    """A model, optimizers, and one slot that a snapshot goes to."""

    def __init__(self, model: nn.Module, **objects: Any) -> None:
        self.objects: dict[str, Any] = {"model": model, **objects}
        self.model = model
        self.gate = Gate()
        self.copier = Copier(self.gate)
        self.arena = Arena.private(2)
        self.capture = Capture(self.objects, allow_pickle=False)
        self.outcomes: list[bool] = []

    def snapshot(self, step: int = 1) -> Slot:
        slot = self.arena.slots[step % 2]
        self.capture.write_overlapped(slot, step, self.copier, lambda unchanged: self._done(slot, unchanged))
        return slot

    def _done(self, slot: Slot, unchanged: bool) -> None:
        self.outcomes.append(unchanged)
        if unchanged:
            slot.complete(self.arena.next_sequence(), {}, hold=False)
        else:
            slot.void()

    def blocking(self) -> bytes:
        """The image as it would be if everything were copied here and now."""
        slot = self.arena.slots[1]
        Capture(self.objects, allow_pickle=False).write(slot, 1)
        image = bytes(slot.image)
        slot.void()
        return image

    def image(self, slot: Slot) -> bytes:
        self.copier.wait()
        assert slot.info().complete
        return bytes(slot.image)


def train(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, step: bool = True) -> None:
    model(torch.ones(4, 6)).sum().backward()
    for optimizer in optimizers if step else ():
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(model: nn.Module, **objects: Any) -> Bench:
        made.append(Bench(model, **objects))
        return made[-1]

    yield make
    for bench in made:
        bench.gate.open()
        bench.copier.close()
        bench.arena.close()


Benches = Callable[..., Bench]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True, amsgrad=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_next_optimizer_step_waits_for_the_copy(benches: Benches, name: str) -> None:
    model = nn.Linear(6, 3)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, [optimizer])
    bench = benches(model, optimizer=optimizer)
    expected = bench.blocking()
    slot = bench.snapshot()
    bench.gate.open_after(0.05)
    train(model, [optimizer])
    assert bench.image(slot) == expected
    assert bench.outcomes == [True]
    assert bench.blocking() != expected


def test_forward_and_backward_do_not_wait(benches: Benches) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer])
    bench = benches(model, optimizer=optimizer)
    expected = bench.blocking()
    slot = bench.snapshot()
    train(model, [optimizer], step=False)  # would never return, were it to wait
    assert not slot.info().complete
    bench.gate.open()
    assert bench.image(slot) == expected


def test_an_unregistered_optimizer_waits_too(benches: Benches) -> None:
    model = nn.Linear(6, 3)
    registered = torch.optim.AdamW([model.weight])
    unregistered = torch.optim.SGD([model.bias], lr=0.1)
    train(model, [registered, unregistered])
    bench = benches(model, optimizer=registered)
    expected = bench.blocking()
    slot = bench.snapshot()
    bench.gate.open_after(0.05)
    train(model, [unregistered])
    assert bench.image(slot) == expected


def test_what_no_optimizer_owns_is_copied_at_once(benches: Benches) -> None:
    """Running statistics change in the forward pass, averages whenever the script likes."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    optimizer = torch.optim.AdamW(model.parameters())
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, [optimizer])
    bench = benches(model, optimizer=optimizer, ema=average)
    expected = bench.blocking()
    slot = bench.snapshot()
    train(model, [optimizer], step=False)
    average.update_parameters(model)
    bench.gate.open()
    assert bench.image(slot) == expected
    assert bench.outcomes == [True]


def test_a_parameter_changed_by_hand_voids_the_copy(benches: Benches) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer])
    bench = benches(model, optimizer=optimizer)
    slot = bench.snapshot()
    with torch.no_grad():
        model.weight.clamp_(-0.01, 0.01)
    bench.gate.open()
    bench.copier.wait()
    assert bench.outcomes == [False]
    assert not slot.info().complete


def test_frozen_parameters_are_in_the_image_and_may_be_thawed(benches: Benches) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[1].parameters())
    train(model, [optimizer])
    bench = benches(model, optimizer=optimizer)
    bench.gate.open()
    assert bench.image(bench.snapshot()) == bench.blocking()
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    train(model, [optimizer])  # the state grows: the slot has to be laid out anew
    grown = bench.snapshot(2)
    assert bench.image(grown) == _at_step(bench, 2)


def _at_step(bench: Bench, step: int) -> bytes:
    slot = bench.arena.slots[1]
    Capture(bench.objects, allow_pickle=False).write(slot, step)
    return bytes(slot.image)


def test_tied_weights_and_two_optimizers(benches: Benches) -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    optimizers = [torch.optim.AdamW([first.weight]), torch.optim.SGD([first.bias, second.bias], lr=0.1)]
    train(model, optimizers)
    bench = benches(model, **{"optimizer.0": optimizers[0], "optimizer.1": optimizers[1]})
    expected = bench.blocking()
    slot = bench.snapshot()
    bench.gate.open_after(0.05)
    train(model, optimizers)
    assert bench.image(slot) == expected


def test_restoring_an_overlapped_image_gives_the_state_of_its_boundary(benches: Benches) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, [optimizer])
    weight = model.weight.detach().clone()
    bench = benches(model, optimizer=optimizer)
    slot = bench.snapshot()
    bench.gate.open_after(0.05)
    train(model, [optimizer])
    bench.copier.wait()
    assert not torch.equal(model.weight, weight)
    assert restore(slot.image, bench.objects, allow_pickle=False) == 1
    assert torch.equal(model.weight, weight)


def test_an_error_of_the_copy_reaches_the_training_thread(benches: Benches) -> None:
    def fail(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        raise MemoryError("no more")

    copier = Copier(fail)
    copier.start([], [], lambda _: None)
    with pytest.raises(MemoryError, match="no more"):
        copier.wait()
    copier.close()


def test_owned_are_parameters_and_state_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, [optimizer])
    owned = owned_by_optimizers({"model": model, "optimizer": optimizer})
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert set(owned) == {tensor.data_ptr() for tensor in [*model.parameters(), *states]}
    assert not set(owned) & {buffer.data_ptr() for buffer in model.buffers()}


def test_the_hook_is_gone_after_closing() -> None:
    before = len(_global_optimizer_pre_hooks)
    copier = Copier()
    copier.start([], [], lambda _: None)
    assert len(_global_optimizer_pre_hooks) == before + 1
    copier.close()
    assert len(_global_optimizer_pre_hooks) == before
