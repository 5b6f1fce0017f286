"""Which trackers there are. Each is imported when it is made, in its own thread: some take seconds for that."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from resilient.trackers.tracker import Context, Tracker

_PLACES: Mapping[str, tuple[str, str]] = {
    "wandb": ("wandb_run", "Wandb"),
    "tensorboard": ("tensorboard", "Tensorboard"),
    "jsonl": ("jsonl", "Jsonl"),
    "webhook": ("webhook", "Webhook"),
    "command": ("command", "Command"),
    "prometheus": ("prometheus", "Prometheus"),
}


def make(name: str, context: Context) -> Tracker:
    """The tracker of that name."""
    module, kind = _PLACES[name]
    tracker: Tracker = getattr(importlib.import_module(f"resilient.trackers.{module}"), kind)(context)
    return tracker
