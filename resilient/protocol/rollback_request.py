"""A rollback that is asked of a run that is up: a file in the run directory, and the supervisor's answer beside it.

Files and not a word on the board, because a request is more than a number and outlives the round; whoever takes it
deletes it first, so that it is acted on once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths

_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class RollbackRequest:
    """What is asked for.

    :param id: no other request has it.
    :param target: the step to go on from; None for the newest good snapshot.
    :param skip: first and last step whose data is left out; None for none.
    :param lr_factor: what the learning rate is multiplied by from there on, beside what it is already.
    """

    id: str
    target: int | None
    skip: tuple[int, int] | None = None
    lr_factor: float = 1.0

    @classmethod
    def from_json(cls, saved: Any) -> RollbackRequest:
        """Raises ValueError for anything that is no request."""
        try:
            target, skip, factor = saved["target"], saved["skip"], float(saved["lr_factor"])
            request = cls(
                str(saved["id"]),
                None if target is None else _count(target),
                None if skip is None else (_count(skip[0]), _count(skip[1])),
                factor,
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"not a request for a rollback: {error!r}") from error
        if not request.id or not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"not a request for a rollback: {saved!r:.200}")
        if request.skip is not None and request.skip[0] > request.skip[1]:
            raise ValueError(f"a request for a rollback that skips {request.skip[0]} to {request.skip[1]}")
        return request


@dataclass(frozen=True)
class RollbackAnswer:
    """What has become of a request.

    :param why: the reason of a refusal, and what can be done instead.
    :param target: the step that the run goes on from, where it was accepted.
    """

    id: str
    accepted: bool
    why: str = ""
    target: int | None = None


def ask(paths: RunPaths, request: RollbackRequest) -> None:
    """Leave a request for the supervisor; it takes the place of one that nobody has taken.

    :raises OSError: it cannot be written.
    """
    _replace(paths.rollback_request, asdict(request))


def take_request(paths: RunPaths) -> RollbackRequest | None:
    """The request that waits, if there is one. It is gone afterwards, whatever was in it.

    :raises ValueError: it is none.
    """
    data = _read(paths.rollback_request)
    if data is None:
        return None
    paths.rollback_request.unlink(missing_ok=True)
    return RollbackRequest.from_json(json.loads(data))


def withdraw(paths: RunPaths, request: RollbackRequest) -> bool:
    """Take a request back. Returns whether that was in time: nobody has taken it, and nobody will."""
    try:
        data = _read(paths.rollback_request)
        if data is None or RollbackRequest.from_json(json.loads(data)).id != request.id:
            return False
        paths.rollback_request.unlink()
    except (OSError, ValueError):
        return False
    return True


def answer(paths: RunPaths, given: RollbackAnswer) -> None:
    """Say what has become of a request.

    :raises OSError: it cannot be written.
    """
    _replace(paths.rollback_answer, asdict(given))


def read_answer(paths: RunPaths, request: RollbackRequest) -> RollbackAnswer | None:
    """The answer to ``request``, once it is there."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        body = json.loads(_read(paths.rollback_answer) or b"{}")
        if body.get("id") == request.id:
            target = body["target"]
            return RollbackAnswer(
                request.id, bool(body["accepted"]), str(body["why"]), None if target is None else int(target)
            )
    return None


def _replace(path: Path, body: Mapping[str, Any]) -> None:
    fresh = path.with_name(f"{RunPaths.fresh(path).name}.{os.getpid()}")  # several may ask at the same time
    fresh.write_text(json.dumps(body))
    fresh.replace(path)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES)
    except FileNotFoundError:
        return None


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no step")
    return value
