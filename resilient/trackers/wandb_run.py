"""Weights & Biases: one run there for one run here, whatever happens to it.

Its id is made of the run's, so every launch, on whatever machine, goes on with the same one. Steps go into a metric of
their own, ``train/step``, for those of wandb can only grow and a rollback goes back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import wandb

from resilient.protocol.tracker_settings import WandbMode
from resilient.trackers.details import Details
from resilient.trackers.tracker import Context, Tracker

STEP = "train/step"
_OURS = "resilient/"
_FLUSH_SECONDS = 2.0  # between two times that its own process writes its file
_LONGEST_ID = 100


def wandb_id(run: str, identity: str) -> str:
    """The run's id there: readable, and another one for a run that was begun anew under the same name."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', run)[:_LONGEST_ID]}-{identity[:10]}"


class Wandb(Tracker):
    """Opens its run when there is something to tell, and finishes it when a launch ends."""

    settle_seconds = 4 * _FLUSH_SECONDS

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._settings = context.settings.wandb
        self._run: Any = None

    def _open(self) -> Any:
        if self._run is None:
            self._run = self._init()
            self._run.define_metric(STEP)
            self._run.define_metric("*", step_metric=STEP)
        return self._run

    def _init(self) -> Any:
        """Online if that is wanted and possible; what is kept offline can be sent there later."""
        if self._settings.mode == WandbMode.online:
            try:
                return self._begin("online")
            except Exception as error:  # noqa: BLE001  no login, no network, no project: training goes on in any case
                self._context.say(
                    f"WARNING: wandb cannot go online ({type(error).__name__}); the run is kept in "
                    f"{self._context.paths.root / 'wandb'} for wandb sync"
                )
                wandb.teardown()
        return self._begin("offline")

    def _begin(self, mode: str) -> Any:
        wanted, paths = self._settings, self._context.paths
        return wandb.init(
            project=wanted.project or None,
            entity=wanted.entity or None,
            id=wandb_id(paths.run_id, self._context.identity),
            name=wanted.name or paths.run_id,
            group=wanted.group or None,
            tags=wanted.tags or None,
            dir=str(paths.root),
            resume="allow",
            config=dict(self._context.config),
            allow_val_change=True,
            settings=wandb.Settings(**_quiet(mode, system=wanted.system_metrics)),
        )

    def _log(self, details: Details, values: Mapping[str, float]) -> None:
        run = self._open()
        # A successor that is offline does not know what there was, and begins with 0 again.
        count = max(int(self.state.get("count", 0)), int(run.step)) + 1
        run.log({**values, STEP: details.step, f"{_OURS}lineage": details.lineage}, step=count)
        self.state["count"] = count

    def _alert(self, title: str, details: Details, level: str) -> None:
        if self._settings.alerts:
            self._open().alert(title=title, text=details.words[:2000], level=level)

    def metrics(self, details: Details) -> None:
        values = {**details.values, f"{_OURS}round": float(details.round)}
        if (seconds := details.facts.get("seconds")) is not None:
            values[f"{_OURS}step_seconds"] = float(seconds)
        self._log(details, values)

    def started(self, details: Details) -> None:  # noqa: ARG002
        self._open()

    def snapshot(self, details: Details) -> None:
        tier = details.facts["tier"]
        self._open().summary.update({f"{_OURS}durable_step_{tier}": details.step})

    def incident(self, details: Details) -> None:
        number = int(details.facts["number"])
        self._log(details, {f"{_OURS}incident": float(number)})
        self._open().summary.update({f"{_OURS}incidents": number, f"{_OURS}last_incident": details.words[:500]})
        if details.facts["class"] != "preemption":
            self._alert(f"Incident {number}: {details.facts['class']}", details, "WARN")

    def rollback(self, details: Details) -> None:
        target, reached = int(details.facts["target"]), int(details.facts["reached"])
        self._log(details, {f"{_OURS}rolled_back_to": float(target), f"{_OURS}rolled_back_from": float(reached)})
        self._open().summary.update({f"{_OURS}rollbacks": details.lineage, f"{_OURS}last_rollback": details.words})
        self._alert("Rollback", details, "WARN")

    def preempting(self, details: Details) -> None:  # noqa: ARG002
        self._open().mark_preempting()

    def ended(self, details: Details) -> None:
        code = int(details.facts["exit_code"])
        run = self._open()
        run.summary.update({f"{_OURS}ending": details.words, f"{_OURS}exit_code": code})
        run.finish(exit_code=code)
        self._run = None  # what comes after it is of the next launch

    def close(self) -> None:
        wandb.teardown()


def _quiet(mode: str, *, system: bool) -> dict[str, Any]:
    """Settings with which wandb looks at nothing but what it is told, and says nothing."""
    wanted = {
        "mode": mode,
        "silent": True,
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "program": "resilient",
        "x_disable_stats": not system,
        "x_stats_pid": os.getppid(),  # the supervisor's, and with it all workers
        "x_stats_track_process_tree": True,
        "x_transaction_log_flush_interval": _FLUSH_SECONDS,
    }
    return {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
