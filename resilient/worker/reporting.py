"""Metrics on their way out, without waiting for the device.

A CPU value is read at once. A CUDA tensor is copied to pinned memory behind the work that produces it, and read one
step later, when it has long arrived; or at once when a snapshot of the step is taken, so that a step that will not be
repeated has always been reported.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from resilient.errors import UsageError
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import OURS, RESERVED
from resilient.worker.sharded import is_distributed, is_replicated, local_part


@dataclass
class _Pending:
    step: int
    values: dict[str, Any] = field(default_factory=dict)
    arrived: Any = None  # a CUDA event after the last copy, or None when all values are on the CPU


class Reporter:
    """Collects what ``run.report`` is given and hands it on in the order of steps."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Take values after ``step``; a name reported twice in one step keeps the last value."""
        for name in values:
            if name in RESERVED or name.startswith(OURS):
                raise UsageError(f"{name} is not free as the name of a metric", "report it under another name")
        self.put(step, values)

    def put(self, step: int, values: Mapping[str, Any]) -> None:
        """Likewise, whatever the names."""
        if not values:
            return
        if not self._pending or self._pending[-1].step != step:
            self._pending.append(_Pending(step))
        pending = self._pending[-1]
        for name, value in values.items():
            pending.values[name] = self._take(pending, name, value)

    def forget(self, after: int) -> None:
        """Drop what was taken after ``after``, which is going to be taken again."""
        while self._pending and self._pending[-1].step > after:
            self._pending.pop()

    def ready(self, before: int) -> list[Metrics]:
        """Metrics of all steps before ``before``, and of later ones that need no waiting."""
        out = []
        while self._pending and (self._pending[0].step < before or self._pending[0].arrived is None):
            pending = self._pending.popleft()
            if pending.arrived is not None:
                pending.arrived.synchronize()
            values = {name: float(value) for name, value in pending.values.items()}
            out.append(Metrics(pending.step, time.time(), values))
        return out

    @staticmethod
    def _take(pending: _Pending, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return _number(name, value)
        if is_distributed(value):
            if not is_replicated(value):  # to gather it would wait for ever where only some ranks report it
                raise UsageError(f"{name} is spread over ranks, a metric is one number", f"report {name}.full_tensor()")
            value = local_part(value)
        if value.numel() != 1:
            raise UsageError(f"{name} is a tensor of shape {tuple(value.shape)}, a metric is one number")
        if not value.is_cuda:
            return _number(name, value.item())
        landing = torch.empty((), dtype=value.dtype, device="cpu", pin_memory=True)
        landing.copy_(value.detach().reshape(()), non_blocking=True)
        pending.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stubs
        pending.arrived.record()
        return landing


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name}={value!r} is not a number") from error


def users_own(values: Mapping[str, float]) -> dict[str, float]:
    """Those that the script has reported."""
    return {name: value for name, value in values.items() if not name.startswith(OURS)}
