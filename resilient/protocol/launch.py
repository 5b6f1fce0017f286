"""What the forkserver is asked to start, and what a dying worker leaves behind."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MOST_DETAIL = 4000  # characters
_LINE_END = "\n"
_MOST_CAUSES = 5


@dataclass(frozen=True)
class LaunchSpec:
    """One worker to start.

    :param script: path of the script, or None when ``module`` is to be run as ``python -m`` does.
    :param arguments: what follows the script's name on its command line.
    :param directory: working directory.
    :param log: file to which stdout and stderr are appended.
    :param error_file: where an exception that ends the script is written.
    :param log_max_bytes: size at which the log is rotated; 0 for never.
    :param log_keep: older pieces of it that are kept.
    :param board: the board on which a script that knows nothing of us has its steps counted; None for one that attaches
        itself.
    """

    rank: int
    script: str | None
    module: str | None
    arguments: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    log: str
    error_file: str
    log_max_bytes: int = 0
    log_keep: int = 1
    board: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> LaunchSpec:
        return cls(**{**body, "arguments": tuple(body["arguments"])})


@dataclass(frozen=True)
class WorkerError:
    """An exception that ended a worker's script: its type with all bases, most derived first, and the first line of
    its message.

    :param detail: the whole message, bounded.
    :param causes: ``Type: message`` of the exceptions it was raised from, nearest first.
    :param time: when it was written, seconds since the epoch; 0 if that is not known.
    """

    types: tuple[str, ...] = ()
    message: str = ""
    traceback: str = ""
    detail: str = ""
    causes: tuple[str, ...] = ()
    time: float = 0.0

    @classmethod
    def of(cls, error: BaseException) -> WorkerError:
        types = tuple(kind.__name__ for kind in type(error).__mro__ if kind is not object)
        lines = str(error).strip().splitlines()
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        detail = _bounded(str(error).strip())
        return cls(types, lines[0] if lines else "", text, detail, _causes(error), round(time.time(), 6))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> WorkerError | None:
        """The error in ``path``, or None when there is none that can be read."""
        try:
            body = json.loads(path.read_text())
            detail, at = str(body.get("detail", "")), float(body.get("time", 0.0))
            causes = tuple(map(str, body.get("causes", ())))
            types = tuple(map(str, body["types"]))
            return cls(types, str(body["message"]), str(body["traceback"]), detail, causes, at)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def _bounded(message: str) -> str:
    """Its beginning and its end, in whole lines: a message that holds a traceback ends with what was raised."""
    if len(message) <= _MOST_DETAIL:
        return message
    half = _MOST_DETAIL // 2
    head, end = message[:half], message[-half:]
    return f"{head.rpartition(_LINE_END)[0] or head}{_LINE_END}  …{_LINE_END}{end.partition(_LINE_END)[2] or end}"


def _causes(error: BaseException) -> tuple[str, ...]:
    """What ``error`` was raised from, or while handling, as a traceback shows it."""
    found: list[str] = []
    seen = {id(error)}
    while len(found) < _MOST_CAUSES:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            break
        seen.add(id(cause))
        found.append(f"{type(cause).__name__}: {cause}"[:_MOST_DETAIL])
        error = cause
    return tuple(found)
