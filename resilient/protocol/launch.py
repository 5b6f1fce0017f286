"""What the forkserver is asked to start, and what a dying worker leaves behind."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LaunchSpec:
    """One worker to start.

    :param script: path of the script, or None when ``module`` is to be run as ``python -m`` does.
    :param arguments: what follows the script's name on its command line.
    :param directory: working directory.
    :param log: file to which stdout and stderr are appended.
    :param error_file: where an exception that ends the script is written.
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
    """

    types: tuple[str, ...] = ()
    message: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> WorkerError:
        types = tuple(kind.__name__ for kind in type(error).__mro__ if kind is not object)
        lines = str(error).strip().splitlines()
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(types, lines[0] if lines else "", text)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> WorkerError | None:
        """The error in ``path``, or None when there is none that can be read."""
        try:
            body = json.loads(path.read_text())
            return cls(tuple(body["types"]), body["message"], body["traceback"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
