"""The run without a fault, and what is learned from it: how long it is, and how long a silence is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from resilient.errors import ConfigurationError, RunNotFound
from resilient.protocol.metrics_log import read_metrics
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal
from resilient.supervisor.status import Status

_LEAST_SILENCE = 3.0  # seconds; a machine that is busy with other things takes a while too
_LEAST_STARTUP = 60.0
_TIMES_THE_SLOWEST = 5.0


@dataclass(frozen=True)
class Reference:
    """What is known of it; times in seconds.

    :param steps: 0 for a script that does not tell its steps.
    :param seconds: from the launch of its worker to the end.
    :param startup: from the launch of its worker to its first step, or to the end.
    :param slowest: the longest time between two steps, whatever lay between them; 0 if nothing is known of that.
    """

    paths: RunPaths
    steps: int
    seconds: float
    startup: float
    slowest: float

    @classmethod
    def of(cls, paths: RunPaths, seen: Sequence[float] = ()) -> Reference:
        """Read its logs.

        :param seen: when its steps were seen to be completed, for a script that reports nothing.
        :raises ConfigurationError: it has not come to its end.
        """
        status = Status.read(paths.status)
        if status is None or not status.finished:
            ended = status.diagnosis if status is not None else "it has not begun"
            raise ConfigurationError(f"the run {paths.run_id} is not finished: {ended}", "compare with one that is")
        journal = list(read_journal(paths.journal))
        began = next((entry["time"] for entry in journal if entry["name"] == "worker launched"), 0.0)
        ended_at = max((entry["time"] for entry in journal), default=began)
        by_rank = _times(paths) or [list(seen)]
        first = min((times[0] for times in by_rank if times), default=ended_at)
        slowest = max(max(_gaps(times), default=0.0) for times in by_rank)
        return cls(paths, status.step or status.total, ended_at - began, first - began, slowest)

    def limits(self, given: Sequence[str]) -> list[str]:
        """Overrides that let a hang be noticed soon; those that the user gives stand.

        A run has to learn how slow it can be. A drill knows it from the run before.
        """
        silence = round(max(_LEAST_SILENCE, _TIMES_THE_SLOWEST * self.slowest), 1)
        startup = round(max(_LEAST_STARTUP, _TIMES_THE_SLOWEST * self.startup), 1)
        learned = {"hang.startup_seconds": startup}
        if self.slowest:
            learned |= {
                "hang.min_seconds": silence,
                "hang.phase_seconds": silence,
                "hang.factor": _TIMES_THE_SLOWEST,
            }
        taken = {text.partition("=")[0].lstrip("+") for text in given}
        return [f"{key}={value:g}" for key, value in learned.items() if key not in taken]


def _times(paths: RunPaths) -> list[list[float]]:
    """When each rank reported its steps, for every rank that did."""
    found: dict[int, list[float]] = {}
    for entry in read_metrics(paths.metrics):
        found.setdefault(entry.rank, []).append(entry.metrics.time)
    return list(found.values())


def _gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def find_reference(text: str, directory: Path, tree: Mapping[str, Any]) -> Reference:
    """The finished run that ``--reference`` names: a directory, or an id.

    :raises RunNotFound: there is no such run.
    :raises ConfigurationError: it was trained with other settings.
    """
    path = Path(text)
    paths = RunPaths(path.absolute()) if path.is_dir() else RunPaths.of(directory, text)
    if not paths.config.is_file():
        raise RunNotFound(f"--reference {text}: there is no run in {paths.root}", "name its directory, or its run.id")
    saved = yaml.safe_load(paths.config.read_text()) or {}
    for section in ("train", "worker"):
        if saved.get(section, {}) != tree.get(section, {}):
            raise ConfigurationError(
                f"--reference {text} was trained with other settings in the section {section}",
                "give the same overrides, or let the drill make a reference of its own",
            )
    return Reference.of(paths)
