"""The state of Hugging Face's trainer at a step boundary: what it counts, its log, its callbacks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

COUNTED = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "current_flos")
_STATE = (
    "epoch",
    "global_step",
    "num_input_tokens_seen",
    "total_flos",
    "best_metric",
    "best_global_step",
    "best_model_checkpoint",
)


class TrainerState:
    """An object with ``state_dict`` like any other; loading sets the trainer itself."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._log: list[str] = []  # its lines as they are stored, which are many, and do not change

    def state_dict(self) -> dict[str, Any]:
        trainer, history = self._trainer, self._trainer.state.log_history
        self._log += [json.dumps(entry, default=float) for entry in history[len(self._log) :]]
        return {
            "state": {name: getattr(trainer.state, name) for name in _STATE},
            "counted": {name: getattr(trainer, name) for name in COUNTED},
            "log": "\n".join(self._log),
            "callbacks": [callback.state()["attributes"] for callback in self._exporting()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        trainer = self._trainer
        for name, value in state["state"].items():
            setattr(trainer.state, name, value)
        for name, value in state["counted"].items():
            setattr(trainer, name, value)
        self._log = state["log"].splitlines()
        trainer.state.log_history[:] = [json.loads(line) for line in self._log]
        for callback, attributes in zip(self._exporting(), state["callbacks"], strict=True):
            vars(callback).update(attributes)

    def _exporting(self) -> Iterator[Any]:
        return (callback for callback in self._trainer.callback_handler.callbacks if hasattr(callback, "state"))
