"""Copying CUDA tensors into a slot while training goes on.

At the step boundary an event is recorded on each device's current stream. A side stream waits for it, copies into the
slot, and records an event of its own; the streams on which the next ``optimizer.step()`` runs wait for that one, on
the device. The slot's memory is registered with CUDA, once per mapping, or the copies would not be asynchronous.

What no optimizer owns may change at once, so it is cloned on the current stream first, which is fast, and the side
stream copies the clones. Sources and clones are referred to until the copy has happened: the caching allocator knows
nothing of the side stream's use, and must not give their memory away.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from resilient.protocol.arena import Slot
from resilient.worker.overlap import copy_all

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every device


class PinnedSlots:
    """Slots whose memory is registered with CUDA."""

    def __init__(self) -> None:
        self._pinned: dict[int, tuple[memoryview, int]] = {}
        self._warned = False

    def pin(self, slot: Slot) -> None:
        """Register the slot's mapping, unless it is registered. Where that fails, copies are slower, no less right."""
        known = self._pinned.get(slot.index)
        if known is not None and known[0].obj is slot.memory:
            return
        self._unpin(slot.index)
        mapped = memoryview(slot.memory)  # keeps the mapping in place for as long as it is registered
        address = torch.frombuffer(mapped, dtype=torch.uint8).data_ptr()
        error = int(torch.cuda.cudart().cudaHostRegister(address, len(mapped), _PORTABLE))  # type: ignore[no-untyped-call]
        if error == 0:
            self._pinned[slot.index] = (mapped, address)
            return
        self._pinned[slot.index] = (mapped, 0)  # not tried again
        _clear_error()
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"snapshot memory cannot be pinned (CUDA error {error}), so snapshots are copied more slowly; raising "
                "the limit of locked memory (ulimit -l) may help",
                stacklevel=2,
            )

    def close(self) -> None:
        """Take back all registrations. Nothing may be being copied."""
        for index in list(self._pinned):
            self._unpin(index)

    def _unpin(self, index: int) -> None:
        mapped, address = self._pinned.pop(index, (None, 0))
        if address and int(torch.cuda.cudart().cudaHostUnregister(address)) != 0:  # type: ignore[no-untyped-call]
            _clear_error()
        if mapped is not None:
            mapped.release()


def _clear_error() -> None:
    """Take away the error that a call of the runtime has left, or the next kernel launch would be blamed for it."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")


@dataclass
class _Work:
    """The copies from one device."""

    device: torch.device
    targets: list[torch.Tensor]
    sources: list[torch.Tensor]
    boundary: Any
    copied: Any


class CudaCopy:
    """A :class:`~resilient.worker.overlap.DeviceCopy` of CUDA tensors. Make it at the step boundary.

    :param owned: for each source, whether only an optimizer's step changes it.
    """

    def __init__(
        self,
        slot: Slot,
        pinned: PinnedSlots,
        targets: Sequence[torch.Tensor],
        sources: Sequence[torch.Tensor],
        owned: Sequence[bool],
    ) -> None:
        self._slot = slot
        self._pinned = pinned
        self.guarded = [source for source, is_owned in zip(sources, owned, strict=True) if is_owned]
        by_device: dict[torch.device, _Work] = {}
        for target, source, is_owned in zip(targets, sources, owned, strict=True):
            if source.device not in by_device:
                event, copied = torch.cuda.Event(), torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                by_device[source.device] = _Work(source.device, [], [], event, copied)
            work = by_device[source.device]
            work.targets.append(target)
            work.sources.append(source if is_owned else source.detach().clone())
        self._works = list(by_device.values())
        for work in self._works:
            work.boundary.record(torch.cuda.current_stream(work.device))

    def issue(self) -> None:
        self._pinned.pin(self._slot)
        for work in self._works:
            side = _side_stream(work.device)
            with torch.cuda.stream(side):
                side.wait_event(work.boundary)
                copy_all(work.targets, work.sources, non_blocking=True)
                work.copied.record(side)

    def order(self) -> None:
        for work in self._works:
            torch.cuda.current_stream(work.device).wait_event(work.copied)

    def wait(self) -> None:
        for work in self._works:
            work.copied.synchronize()


_side_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream per device for all copies."""
    if device not in _side_streams:
        _side_streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _side_streams[device]
