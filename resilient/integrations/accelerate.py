"""Accelerate: what ``prepare`` has returned becomes a run.

>>> model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
>>> run = attach(accelerator, loader)
>>> for step, batch in run.steps(total=1000):
...     with accelerator.accumulate(model):
...         ...

All that was prepared belongs to the state, with the scaler of mixed precision, the place in the accumulation of
gradients, and what was given to ``register_for_checkpointing``. The loader is the prepared one: it goes on moving
batches to the device and saying when an epoch ends, and begins where the run stands. Processes are the supervisor's,
in the place of ``accelerate launch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from resilient.errors import UsageError
from resilient.integrations.expected import Known
from resilient.integrations.in_place_of import InPlaceOf
from resilient.worker.attach import attach as attach_objects
from resilient.worker.data import positioned
from resilient.worker.outer_loop import Epochs
from resilient.worker.run import Run

_KNOWN = Known("accelerate", "==1.15.*")
_PREPARED = ("_models", "_optimizers", "_schedulers", "_custom_objects", "scaler", "step")


def attach(accelerator: Any, data: Any, **others: Any) -> Run:
    """:func:`resilient.attach` for all that ``accelerator`` has prepared.

    :param data: the prepared loader of the training data.
    :param others: further objects with state, and what else :func:`resilient.attach` takes.
    :raises UsageError: the loader has no place that could be kept, or Accelerate is put together otherwise.
    """
    _KNOWN.require(accelerator, *_PREPARED)
    models, schedulers = accelerator._models, accelerator._schedulers
    return attach_objects(
        model=_one_or_all(models),
        optimizer=_one_or_all([own_optimizer(found) for found in accelerator._optimizers]),
        scheduler=_one_or_all(schedulers),
        scaler=accelerator.scaler,
        accumulation=_Accumulation(accelerator),
        registered=list(accelerator._custom_objects) or None,
        data=_Prepared(data),
        **others,
    )


def own_loader(loader: Any) -> Any:
    """The loader inside a prepared one.

    :raises UsageError: one process deals its batches out to all others.
    """
    if type(loader).__name__ != "DataLoaderShard":
        raise UsageError(
            f"the place in a {type(loader).__name__} cannot be kept",
            "prepare the DataLoader, with DataLoaderConfiguration(dispatch_batches=False)",
        )
    _KNOWN.require(loader, "base_dataloader")
    return loader.base_dataloader


def take_from(loader: Any, epochs: Epochs) -> None:
    """Have a prepared loader take its batches from ``epochs``. It fetches one more than it hands out."""
    loader.base_dataloader = InPlaceOf(epochs, loader.base_dataloader)


def own_optimizer(optimizer: Any) -> Any:
    """The optimizer inside a prepared one, whose state is given back without a change of its types."""
    return getattr(optimizer, "optimizer", optimizer)


def _one_or_all(found: list[Any]) -> Any:
    return found[0] if len(found) == 1 else list(found) or None


class _Prepared:
    """A prepared loader that keeps its place."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._place = positioned(own_loader(loader), torch.initial_seed())
        self._epochs = Epochs(self._place, lambda: None, from_end_to_next=False)
        take_from(loader, self._epochs)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            self._epochs.consumed(1)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return self._place.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._place.load_state_dict(state)


class _Accumulation:
    """How many batches have been accumulated."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._accelerator.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._accelerator.step = state["step"]
