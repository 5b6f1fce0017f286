"""All faults by name, with what each of them takes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping

from resilient.drill.faults import (
    Fault,
    KillDrain,
    KillForkserver,
    KillSupervisor,
    KillWorker,
    Preempt,
    SlowWorker,
    StallDisk,
    StopWorker,
)
from resilient.drill.in_process import Abort, Flip, Hang, NotANumber, OutOfMemory, Segv, Spike
from resilient.drill.storage import CorruptRestore, FillDisk
from resilient.errors import ConfigurationError

FAULTS: Mapping[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        KillWorker,
        Segv,
        Abort,
        Hang,
        StopWorker,
        OutOfMemory,
        FillDisk,
        StallDisk,
        CorruptRestore,
        Preempt,
        SlowWorker,
        NotANumber,
        Spike,
        Flip,
        KillSupervisor,
        KillDrain,
        KillForkserver,
    )
}
"""In the order in which ``fault=all`` goes through them."""

_NOT_FOR_USERS = frozenset({"at", "number", "group"})
_LEAST: Mapping[str, float] = {"rank": 0, "steps": 1, "factor": 1.0, "seconds": 0.0, "place": 0.0, "bit": 0}


def parameters(fault: type[Fault]) -> dict[str, object]:
    """What a fault takes, with the defaults."""
    return {item.name: item.default for item in dataclasses.fields(fault) if item.name not in _NOT_FOR_USERS}


def named(text: str) -> list[type[Fault]]:
    """The faults that ``fault=`` means: names with commas between, or ``all``.

    :raises ConfigurationError: one of them is not known; the message has the nearest name.
    """
    if text == "all":
        return list(FAULTS.values())
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FAULTS:
            raise ConfigurationError(f"fault={name} is not known", _nearest(name, [*FAULTS, "all"]))
    return [FAULTS[name] for name in names]


def make(kinds: Collection[type[Fault]], given: Mapping[str, str]) -> list[Fault]:
    """The faults with what the command line says of them; each takes of it what it knows.

    :raises ConfigurationError: a value cannot be used, or none of the faults takes it.
    """
    for key in given:
        if not any(key in parameters(kind) for kind in kinds):
            names = ", ".join(kind.name for kind in kinds)
            known = sorted({name for kind in kinds for name in parameters(kind)})
            takes = f"known are {', '.join(known)}" if known else "there is nothing to set"
            raise ConfigurationError(f"fault={names} takes no {key}=", takes)
    return [
        kind(
            **{key: _value(key, text, parameters(kind)[key]) for key, text in given.items() if key in parameters(kind)}
        )
        for kind in kinds
    ]


def _value(key: str, text: str, default: object) -> int | float | str:
    if isinstance(default, bool):
        if text not in {"true", "false"}:
            raise ConfigurationError(f"{key}={text} must be true or false")
        return text == "true"
    if isinstance(default, str):
        return text
    try:
        value = int(text) if isinstance(default, int) else float(text)
    except ValueError:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigurationError(f"{key}={text} must be {wanted}") from None
    if not _LEAST[key] <= value < float("inf") or (key == "place" and value > 1):
        most = " and at most 1" if key == "place" else ""
        raise ConfigurationError(f"{key}={text} must be at least {_LEAST[key]:g}{most}")
    return value


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are: {', '.join(known)}"
