"""The time that this rank spends on its own in each step: waiting for data, and in the model's forward pass.

The backward pass and the optimizer are left out, for there the ranks wait for each other. On CUDA the forward pass is
measured by events on the device, which are read when they have passed, so that nothing is waited for. Where the
model's parameters are spread over the ranks (FSDP), its forward pass waits for them as well, and only the data tells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_SMOOTHING = 0.1  # the weight of the latest step
_MOST_PENDING = 64  # steps whose events have not passed on the device yet


class OwnWork:
    """Measures one rank.

    :ivar counts: whether what the model does now belongs to a training step.
    """

    def __init__(self, objects: Mapping[str, Any], clock: Callable[[], float]) -> None:
        """Hook into the first model among ``objects``; inside its wrapper, if that is what waits for others."""
        self.counts = True
        self._clock = clock
        self._steps = 0
        self._wait = self._data = self._compute = 0.0
        self._began: Any = None
        self._forward = 0.0  # of this step, on the CPU
        self._events: list[tuple[Any, Any]] = []  # likewise, on the device
        self._pending: deque[list[tuple[Any, Any]]] = deque(maxlen=_MOST_PENDING)
        model = next((found for found in objects.values() if isinstance(found, nn.Module)), None)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        self._on_device = model is not None and any(parameter.is_cuda for parameter in model.parameters())
        if model is not None:
            model.register_forward_pre_hook(_Hook(self._device_begins if self._on_device else self._begins))
            model.register_forward_hook(_Hook(self._device_ends if self._on_device else self._ends))

    def fetch(self, batches: Iterator[Any]) -> Any:
        """The next batch, and the time that it is waited for."""
        began = self._clock()
        batch = next(batches)
        self._wait = self._clock() - began
        return batch

    def of_step(self) -> tuple[int, float, float]:
        """The step is complete: how many have been, and what one of them takes, in seconds, for data and computing."""
        weight = _SMOOTHING if self._steps else 1.0  # the first one is as good as any
        self._steps += 1
        self._data += weight * (self._wait - self._data)
        if self._on_device:
            self._pending.append(self._events)
            self._events = []
            while self._pending and all(end.query() for _, end in self._pending[0]):
                forward = sum(begin.elapsed_time(end) / 1e3 for begin, end in self._pending.popleft())
                self._compute += weight * (forward - self._compute)
        else:
            self._compute += weight * (self._forward - self._compute)
            self._forward = 0.0
        return self._steps, self._data, self._compute

    # What is compiled together with the model has no time of its own, and must not have any Python of ours in it.

    def _begins(self) -> None:
        if not torch.compiler.is_compiling() and self.counts:
            self._began = self._clock()

    def _ends(self) -> None:
        if not torch.compiler.is_compiling() and self._began is not None:
            self._forward += self._clock() - self._began
            self._began = None

    def _device_begins(self) -> None:
        if not torch.compiler.is_compiling() and self.counts and not torch.cuda.is_current_stream_capturing():
            self._began = self._event()

    def _device_ends(self) -> None:
        if not torch.compiler.is_compiling() and self._began is not None:
            self._events.append((self._began, self._event()))
            self._began = None

    @staticmethod
    def _event() -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's stubs
        event.record()
        return event


class _Hook:
    """Calls a function; a copy of it, with a copied or pickled model, calls nothing."""

    def __init__(self, call: Callable[[], None] | None = None) -> None:
        self._call = call

    def __call__(self, *_: Any) -> None:
        if self._call is not None:
            self._call()

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()
