"""The state of Lightning's trainer at a step boundary: loops, callbacks, what was logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

_LOGGED = ("_logged_metrics", "_callback_metrics", "_progress_bar_metrics")
_SUMS = ("value", "cumulated_batch_size")
_RESTARTING = ("_restarting", "_loaded_from_state_dict", "_resuming_from_checkpoint")
_LOOPS = ("fit_loop", "fit_loop.epoch_loop", "fit_loop.epoch_loop.val_loop")

NEEDED = (
    *(f"_logger_connector.{name}" for name in _LOGGED),
    *(f"{loop}.{name}" for loop in _LOOPS for name in _RESTARTING),
    *(f"fit_loop.epoch_progress.{name}.{count}" for name in ("current", "total") for count in ("ready", "processed")),
    *(f"fit_loop.epoch_loop.{name}" for name in ("_results", "_batches_that_stepped", "batch_progress.reset_on_run")),
    *(f"fit_loop.{name}" for name in ("state_dict", "load_state_dict", "on_iteration_done")),
)
"""What there must be of a trainer that is about to train."""


class TrainerState:
    """An object with ``state_dict`` like any other. What was loaded is given back in two parts: what Lightning's hooks
    look at when an epoch begins, and then, where its loop is about to fetch the first batch, all the rest. Its loops
    are never told that they are restarting.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._loaded: Mapping[str, Any] | None = None
        self._sums: dict[str, dict[str, torch.Tensor]] = {}

    def state_dict(self) -> dict[str, Any]:
        trainer, connector = self._trainer, self._trainer._logger_connector
        return {
            "loops": {key: value for key, value in trainer.fit_loop.state_dict().items() if key != "state_dict"},
            "callbacks": {callback.state_key: state for callback, state in self._callbacks() if state},
            "data": trainer.datamodule.state_dict() if trainer.datamodule is not None else {},
            "logged": {name: dict(getattr(connector, name)) for name in _LOGGED},
            "sums": {key: _sums_of(metric) for key, metric in self._results().items() if _adds_up(metric)},
            "metrics": dict(_metric_states(trainer.lightning_module)),
            "should_stop": bool(trainer.should_stop),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loaded = state

    def go_to_epoch(self) -> None:
        """Before the hooks of an epoch's start are called."""
        fit, state = self._trainer.fit_loop, self._loaded
        if state is None:
            return
        for callback, _ in self._callbacks():
            if callback.state_key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.state_key])
        if state["data"]:
            self._trainer.datamodule.load_state_dict(state["data"])
        self._load_loops(state)
        if fit.epoch_progress.current.processed == fit.epoch_progress.current.started:
            self._trainer.should_stop = state["should_stop"]  # it had come to the end
            self._loaded = None
            return
        # The epoch begins a second time for whoever listens, and for its counter.
        for progress in (fit.epoch_progress.current, fit.epoch_progress.total):
            progress.ready = progress.started = progress.processed
        fit.epoch_loop.batch_progress.reset_on_run()
        fit.epoch_loop.batch_progress.is_last_batch = False

    def go_to_batch(self, fetcher: Any) -> None:
        """The loop is about to fetch the first batch."""
        fit, state = self._trainer.fit_loop, self._loaded
        if state is None:
            return
        self._loaded = None
        self._load_loops(state)
        fetcher.fetched += fit.epoch_loop.batch_progress.current.ready
        for name, logged in state["logged"].items():
            getattr(self._trainer._logger_connector, name).update(logged)
        self._sums = dict(state["sums"])
        for path, values in state["metrics"].items():
            metric = self._trainer.lightning_module.get_submodule(path)
            for name, value in values.items():
                setattr(metric, name, value)

    def add_up(self) -> None:
        """What was logged before goes to what has been logged again since: sums and counts are the same either way."""
        for key in [key for key in self._sums if key in self._results()]:
            metric, before = self._results()[key], self._sums.pop(key)
            for name, value in before.items():
                now = getattr(metric, name)
                reduced = metric.meta.is_max_reduction or metric.meta.is_min_reduction
                value = value.to(now.device)  # noqa: PLW2901
                setattr(metric, name, metric.meta.reduce_fx(value, now) if reduced else value + now)

    def _load_loops(self, state: Mapping[str, Any]) -> None:
        fit = self._trainer.fit_loop
        stepped = state["loops"]["epoch_loop.state_dict"]
        fit.load_state_dict(dict(state["loops"]))
        fit.epoch_loop._batches_that_stepped = stepped["_batches_that_stepped"]
        fit.on_iteration_done()
        for loop in (fit, fit.epoch_loop, fit.epoch_loop.val_loop):
            for name in _RESTARTING:
                setattr(loop, name, False)

    def _callbacks(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for callback in self._trainer.callbacks:
            yield callback, callback.state_dict()

    def _results(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._trainer.fit_loop.epoch_loop._results
        return found


def _adds_up(metric: Any) -> bool:
    return bool(metric.is_tensor and metric.meta.on_epoch and not metric.has_reset)


def _sums_of(metric: Any) -> dict[str, torch.Tensor]:
    return {name: getattr(metric, name) for name in _SUMS if hasattr(metric, name)}


def _metric_states(module: torch.nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each of ``torchmetrics``, what it adds up, which is in no module's state unless it is told so."""
    for path, found in module.named_modules():
        defaults = getattr(found, "_defaults", None)
        if isinstance(defaults, dict) and hasattr(found, "_update_count"):
            yield path, {name: getattr(found, name) for name in (*defaults, "_update_count")}
