"""Overlapped snapshots of CUDA tensors. The order in which host and device act is tested without one elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from resilient.protocol.arena import Arena, Slot
from resilient.worker.capture import Capture, restore
from resilient.worker.cuda import PinnedSlots
from resilient.worker.overlap import Copier
from resilient.worker.rng import GlobalRandomState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
_LONG = 200_000_000  # cycles that a device sleeps, about a tenth of a second


def delay_device(cycles: int) -> None:
    """Make the current device's work that is issued from now on come so much later."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


class Bench:
    def __init__(self, device: str = "cuda", **adam: Any) -> None:
        self.device = device
        self.model = nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.Linear(256, 8)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, **adam)
        self.objects: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "rng": GlobalRandomState()}
        self.capture = Capture(self.objects, allow_pickle=False)
        self.copier = Copier()
        self.arena = Arena.private(2)
        self.outcomes: list[bool] = []
        self.step()

    def forward(self) -> None:
        self.model(torch.randn(16, 256, device=self.device)).square().mean().backward()

    def step(self) -> None:
        self.forward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def expected(self) -> bytes:
        slot = self.arena.slots[1]
        Capture(self.objects, allow_pickle=False).write(slot, 1)
        return bytes(slot.image)

    def begin(self) -> Slot:
        slot = self.arena.slots[0]
        self.capture.write_overlapped(slot, 1, self.copier, lambda unchanged: self._done(slot, unchanged))
        return slot

    def _done(self, slot: Slot, unchanged: bool) -> None:
        self.outcomes.append(unchanged)
        if unchanged:
            slot.complete(self.arena.next_sequence(), {}, hold=False)
        else:
            slot.void()

    def close(self) -> None:
        self.copier.close()
        self.capture.close()
        self.arena.close()


def begin_and_wait(bench: Bench) -> None:
    bench.begin()
    bench.copier.wait()


@pytest.fixture(params=[{}, {"fused": True}, {"capturable": True}], ids=["foreach", "fused", "capturable"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(**request.param)
    yield made
    made.close()


def test_the_image_is_that_of_the_boundary_while_training_goes_on(bench: Bench) -> None:
    for _ in range(4):
        expected = bench.expected()
        delay_device(_LONG)  # the device is behind: the copy cannot have happened when the host goes on
        slot = bench.begin()
        bench.step()
        bench.step()
        bench.copier.wait()
        assert slot.info().complete
        assert bytes(slot.image) == expected
    assert bench.outcomes == [True] * 4


def test_the_host_does_not_wait_for_the_device(bench: Bench) -> None:
    bench.begin()
    bench.copier.wait()  # pinned, laid out
    delay_device(10 * _LONG)
    slot = bench.begin()
    bench.step()
    assert not slot.info().complete
    bench.copier.wait()
    assert slot.info().complete


def test_a_change_by_hand_voids_the_copy(bench: Bench) -> None:
    delay_device(_LONG)
    slot = bench.begin()
    with torch.no_grad():
        next(bench.model.parameters()).mul_(2)
    bench.step()
    bench.copier.wait()
    assert bench.outcomes == [False]
    assert not slot.info().complete


def test_memory_of_replaced_tensors_is_not_given_away_before_it_is_copied(bench: Bench) -> None:
    expected = bench.expected()
    delay_device(_LONG)
    slot = bench.begin()
    for parameter in bench.model.parameters():
        parameter.data = torch.zeros_like(parameter)
    for state in bench.optimizer.state.values():
        state["exp_avg"] = torch.zeros_like(state["exp_avg"])
    trash = [torch.full((256, 256), 7.0, device=bench.device) for _ in range(50)]
    bench.copier.wait()
    assert bytes(slot.image) == expected
    del trash


def test_it_is_restored(bench: Bench) -> None:
    before = [parameter.detach().clone() for parameter in bench.model.parameters()]
    slot = bench.begin()
    bench.step()
    bench.copier.wait()
    restore(slot.image, bench.objects, allow_pickle=False)
    assert all(torch.equal(one, other) for one, other in zip(before, bench.model.parameters(), strict=True))


def test_a_slot_is_pinned_once_per_mapping() -> None:
    arena, pinned = Arena.private(2), PinnedSlots()
    slot = arena.slots[0]
    slot.begin(1, 1 << 20)
    pinned.pin(slot)
    pinned.pin(slot)
    assert torch.frombuffer(slot.memory, dtype=torch.uint8).is_pinned()
    slot.begin(2, 1 << 22)  # grows, and is mapped anew
    assert not torch.frombuffer(slot.memory, dtype=torch.uint8).is_pinned()
    pinned.pin(slot)
    assert torch.frombuffer(slot.memory, dtype=torch.uint8).is_pinned()
    pinned.close()
    assert not torch.frombuffer(slot.memory, dtype=torch.uint8).is_pinned()
    arena.close()


def test_memory_that_cannot_be_pinned_is_warned_of_once_and_copied_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing:
        def cudaHostRegister(self, *_: int) -> int:  # noqa: N802
            return 2

    bench = Bench()
    expected = bench.expected()
    monkeypatch.setattr(torch.cuda, "cudart", Refusing)
    with pytest.warns(UserWarning, match="cannot be pinned"):
        begin_and_wait(bench)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slot = bench.begin()
        bench.step()
        bench.copier.wait()
    assert slot.info().complete
    assert bytes(slot.image) == expected
    bench.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_several_devices() -> None:
    bench = Bench()
    other = Bench("cuda:1")
    bench.objects |= {"model.1": other.model, "optimizer.1": other.optimizer}
    expected = bench.expected()
    delay_device(_LONG)
    slot = bench.begin()
    bench.step()
    other.step()
    bench.copier.wait()
    assert bytes(slot.image) == expected
    bench.close()
    other.close()
