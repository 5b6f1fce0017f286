"""What ``resilient drill`` is asked for: its own words, and what is the configuration's."""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resilient.drill.conduct import Moment
from resilient.drill.faults import Fault
from resilient.drill.registry import FAULTS, make, named, parameters
from resilient.errors import ConfigurationError, UsageError

_SECTIONS = frozenset(
    {"worker", "run", "snapshot", "retention", "remote", "restarts", "hang", "stop", "train", "defaults"}
)
_SHORT = frozenset({"script", "module", "script_args"})  # for what stands in the section worker
_OWN = ("conf", "fault", "at", "seed")
_DRILL_SETS = ("run.id", "run.dir")
_LENGTH_KEYS = ("steps", "max_steps", "total_steps", "num_steps", "train_steps")


@dataclass(frozen=True)
class Request:
    """The command line, understood.

    :param at: steps, fractions of the run, or the word ``random``; for each of them every fault is done once.
    :param overrides: of the configuration.
    """

    conf: str
    faults: Sequence[Fault]
    at: Sequence[str] = ("0.5",)
    seed: int | None = None
    overrides: Sequence[str] = field(default=())

    @classmethod
    def of(cls, pairs: Sequence[str]) -> Request:
        """Read ``conf=… fault=… at=… rank=… key=value…``.

        :raises UsageError: no configuration or no fault is named, or a word is not known.
        :raises ConfigurationError: a fault or one of its values is not known.
        """
        mine: dict[str, str] = {}
        overrides = []
        for text in pairs:
            key, _, value = text.partition("=")
            if _is_override(key):
                overrides.append(text)
            elif key in mine:
                raise UsageError(f"{key}= is given twice", "separate several values by commas")
            else:
                mine[key] = value
        _check(mine, overrides)
        faults = make(named(mine["fault"]), {key: value for key, value in mine.items() if key not in _OWN})
        at = tuple(part.strip() for part in mine.get("at", "0.5").split(","))
        for part in at:
            _check_moment(part)
        seed = mine.get("seed")
        if seed is not None and not seed.isdecimal():
            raise ConfigurationError(f"seed={seed} must be a whole number")
        return cls(mine["conf"], faults, at, int(seed) if seed is not None else None, tuple(overrides))


def moment(text: str, total: int, seconds: float, dice: random.Random) -> Moment:
    """The moment that ``text`` means.

    :param total: steps of the run without a fault; 0 for a script that does not tell its steps.
    :param seconds: how long that run took, from the launch of its worker.
    :raises ConfigurationError: there is no such step in this run.
    """
    fraction = dice.uniform(0.1, 0.9) if text == "random" else float(text)
    is_fraction = text == "random" or "." in text
    if total and is_fraction:
        return Moment(step=min(max(1, round(fraction * total)), max(1, total - 1)))
    if total:
        if not 1 <= int(text) < total:
            raise ConfigurationError(f"at={text}: the run has {total} steps", f"choose at= from 1 to {total - 1}")
        return Moment(step=int(text))
    if is_fraction:
        return Moment(seconds=fraction * seconds)
    raise ConfigurationError(
        f"at={text}: the script does not say which step it is at", "use a fraction of its time, such as at=0.5"
    )


def check_ranks(faults: Sequence[Fault], ranks: int) -> None:
    """Whether there are the ranks that the faults are for.

    :raises ConfigurationError: there is none of that number.
    """
    for fault in faults:
        rank = getattr(fault, "rank", 0)
        if rank >= ranks:
            raise ConfigurationError(f"rank={rank}: the run has {ranks}", f"choose rank= below {ranks}")


def length_override(steps: int, train: Mapping[str, Any]) -> str:
    """The override that makes the run ``steps`` steps long.

    :raises ConfigurationError: none of the keys of ``train`` is known to be the number of steps.
    """
    for key in _LENGTH_KEYS:
        if isinstance(train.get(key), int):
            return f"train.{key}={steps}"
    raise ConfigurationError(
        f"--steps {steps}: no key of train is known to be the number of steps",
        f"override it by its own name, such as train.epochs=1 (known are {', '.join(_LENGTH_KEYS)})",
    )


def _is_override(key: str) -> bool:
    return "." in key or key[:1] in {"+", "~"} or key.split("@", maxsplit=1)[0] in _SECTIONS | _SHORT


def _check(mine: Mapping[str, str], overrides: Sequence[str]) -> None:
    known = [*_OWN, *sorted({name for fault in FAULTS.values() for name in parameters(fault)})]
    for key in mine:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, cutoff=0.5)
            hint = f"did you mean {close[0]}=?" if close else f"known are {', '.join(known)}"
            raise UsageError(f"{key}= is not known here", f"{hint}; keys of the configuration have a dot in them")
    if not mine.get("conf"):
        raise UsageError("exactly one conf=NAME is needed", "for example: resilient drill conf=demo fault=kill")
    if not mine.get("fault"):
        raise UsageError("no fault is named", "for example fault=kill, or fault=all; --list explains them")
    for text in overrides:
        if text.partition("=")[0] in _DRILL_SETS:
            raise UsageError(f"{text}: a drill runs under names of its own", "choose its directory with --dir")


def _check_moment(text: str) -> None:
    if text == "random" or (text.isdecimal() and int(text) > 0):
        return
    try:
        if "." in text and 0.0 < float(text) < 1.0:
            return
    except ValueError:
        pass
    raise ConfigurationError(f"at={text} is no moment", "use a step (at=50), a fraction (at=0.5) or at=random")
