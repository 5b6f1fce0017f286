"""Faults that happen inside a run's own processes: what a drill orders, and what was done about it.

A drill leaves an order in the run's directory; the process that can do it does, once, and leaves a record. Nothing of
this is looked at unless the environment names this very run directory, which only a drill does: a variable that was
forgotten in a shell arms no other run.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths

DRILLED = "RESILIENT_DRILL"
"""Directory of the one run that in-process faults may be done to."""


def is_drilled(paths: RunPaths, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether faults may be done inside this run's processes."""
    return environ.get(DRILLED) == str(paths.root)


@dataclass(frozen=True)
class Order:
    """One fault that a worker is to suffer.

    :param fault: its name.
    :param at: the step in which it happens; 0 for the next one.
    :param steps: how many steps it goes on for.
    :param factor: what it multiplies.
    :param seconds: how long it lasts; 0 for ever.
    :param usage: file that tells the memory which the run's control group uses.
    :param limit: file that takes its limit; empty where there is no such group.
    :param what: in what a bit is flipped: ``weight``, ``gradient``, ``batch`` or ``loss``.
    :param bit: which one, from the lowest of 32.
    :param persistent: the device always errs so: in every pass of step ``at``, but for one on another device.
    :param id: tells this order from others for the same fault.
    """

    fault: str
    at: int = 0
    rank: int = 0
    steps: int = 1
    factor: float = 1.0
    seconds: float = 0.0
    usage: str = ""
    limit: str = ""
    what: str = ""
    bit: int = 0
    persistent: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def write(self, paths: RunPaths) -> None:
        _write(paths.drill / "order.json", asdict(self))

    @classmethod
    def read(cls, paths: RunPaths) -> Order | None:
        """The latest order, or None."""
        body = _read(paths.drill / "order.json")
        return cls(**body) if body is not None else None


@dataclass(frozen=True)
class Record:
    """An order was carried out.

    :param time: seconds since the epoch, just before it was.
    :param what: in words.
    """

    order: str
    time: float
    step: int
    what: str

    def write(self, paths: RunPaths) -> None:
        _write(paths.drill / "done.json", asdict(self))

    @classmethod
    def read(cls, paths: RunPaths, order: str) -> Record | None:
        """The record of this order, or None."""
        body = _read(paths.drill / "done.json")
        return cls(**body) if body is not None and body["order"] == order else None


def full_disk(paths: RunPaths) -> Path:
    """While this file is there, a drilled run finds its disk full when it writes a snapshot."""
    return paths.drill / "disk-full"


def _write(path: Path, body: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(body))
    fresh.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
