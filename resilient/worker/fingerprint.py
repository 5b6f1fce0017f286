"""What each step was made of, as hashes: a replay that differs shows in them at the first step where it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resilient.protocol.metrics_log import BATCH_HASH, GRADIENT_HASH, PARAMETER_HASH
from resilient.protocol.settings import FingerprintSettings
from resilient.worker.batch_hash import BatchHash
from resilient.worker.checksum import Checksum, checksum_of
from resilient.worker.ownership import parameters_of


class Fingerprint:
    """Takes the hashes that are wanted.

    :param objects: those whose parameters count.
    """

    def __init__(self, settings: FingerprintSettings, objects: Mapping[str, Any]) -> None:
        self._settings = settings
        self._objects = objects
        self._batch = BatchHash() if settings.batch else None
        self._gradients: Checksum | None = None
        self._hook: Any = None

    def open(self) -> None:
        """Begin to look at gradients. Does nothing when they are not wanted, or a second time."""
        if self._settings.gradients and self._hook is None:
            before = torch.compiler.disable(self._before_step)  # type: ignore[no-untyped-call]
            self._hook = register_optimizer_step_pre_hook(before)

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def of_batch(self, batch: Any) -> dict[str, Any]:
        """Of a batch, before the script has it."""
        value = self._batch.of(batch) if self._batch is not None else None
        return {} if value is None else {BATCH_HASH: value}

    def of_step(self) -> dict[str, Any]:
        """Of the step that has just ended."""
        found, self._gradients = {GRADIENT_HASH: self._gradients}, None
        if self._settings.parameters:
            found[PARAMETER_HASH] = checksum_of(self._parameters())
        return {name: checksum.value() for name, checksum in found.items() if checksum is not None}

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        parameters = parameters_of([optimizer])
        if any(parameter.is_cuda for parameter in parameters) and torch.cuda.is_current_stream_capturing():
            return  # of a graph's later replays nothing could be seen
        found = checksum_of(parameter.grad for parameter in parameters if parameter.grad is not None)
        if found is not None:  # of several optimizers all count, in the order of their steps
            self._gradients = found if self._gradients is None else self._gradients.then(found)

    def _parameters(self) -> Iterator[torch.Tensor]:
        seen = set()
        modules = [item for item in self._objects.values() if isinstance(item, torch.nn.Module)]
        for parameter in [
            *(parameter for module in modules for parameter in module.parameters()),
            *parameters_of(self._objects.values()),
        ]:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
