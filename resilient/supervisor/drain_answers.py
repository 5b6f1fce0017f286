"""What the drain answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TIDYING = frozenset({"set_aside", "delete_discarded", "drop_parts", "sweep"})
"""Operations that make no snapshot and read none."""


@dataclass(frozen=True)
class Persisted:
    """A snapshot is durable."""

    step: int
    identity: str
    bytes: int
    seconds: float
    removed: tuple[int, ...]


@dataclass(frozen=True)
class PersistFailed:
    """A snapshot could not be made durable; its images are still in memory."""

    step: int
    problem: str


@dataclass(frozen=True)
class PartWritten:
    """The part of a snapshot that one node has is on its disk; it is no snapshot yet.

    :param part: to be handed on to whoever commits it.
    :param bytes: of its images.
    """

    step: int
    staging: str
    part: Mapping[str, Any]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class PartFailed:
    """The part of a snapshot that one node has could not be written; its images are still in memory."""

    step: int
    staging: str
    problem: str


@dataclass(frozen=True)
class Fenced:
    """A snapshot was not committed, for another node leads the run now."""

    step: int
    term: int
    problem: str


@dataclass(frozen=True)
class PartsDropped:
    """An unfinished snapshot of several nodes is gone."""

    staging: str


@dataclass(frozen=True)
class Swept:
    """All unfinished snapshots are gone."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Unfinished:
    """A snapshot that went to disk while it was being copied has not become one: the worker died, or the copy is void.

    Nothing is lost by that, and its slots are not the drain's any more.
    """

    step: int


@dataclass(frozen=True)
class Restored:
    """A snapshot was verified and lies in the slots.

    :param durations: what the run's phases were known to take when it was taken, in seconds.
    :param divergence: what its manifest says of that.
    """

    step: int
    identity: str
    seconds: float
    durations: Mapping[str, float] = field(default_factory=dict)
    divergence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A snapshot failed verification and was set aside as ``kept_as``."""

    step: int
    reason: str
    kept_as: str


@dataclass(frozen=True)
class RestoreFailed:
    """A snapshot could not be read into the slots, though nothing is known to be wrong with it."""

    step: int
    problem: str


@dataclass(frozen=True)
class SetAside:
    """Snapshots that are not on the lineage are none any more."""

    steps: tuple[int, ...]


@dataclass(frozen=True)
class DiscardedDeleted:
    """What had been set aside is deleted."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class TidyFailed:
    """Discarded snapshots are where they were. They count for nothing all the same, for the lineage says so."""

    problem: str


Answer = (
    Persisted
    | PersistFailed
    | PartWritten
    | PartFailed
    | Fenced
    | PartsDropped
    | Swept
    | Unfinished
    | Restored
    | Rejected
    | RestoreFailed
    | SetAside
    | DiscardedDeleted
    | TidyFailed
)


def answer_in(message: Mapping[str, Any]) -> Answer:
    """The answer that a message of the drain is."""
    event = message["event"]
    if event == "persisted":
        known = {name: message[name] for name in ("step", "identity", "bytes", "seconds")}
        return Persisted(**known, removed=tuple(message["removed"]))
    if event == "part_written":
        return PartWritten(**{name: message[name] for name in ("step", "staging", "part", "bytes", "seconds")})
    if event == "part_failed":
        return PartFailed(message["step"], message["staging"], message["problem"])
    if event == "fenced":
        return Fenced(message["step"], message["term"], message["problem"])
    if event == "unfinished":
        return Unfinished(message["step"])
    if event == "restored":
        known = {name: message[name] for name in ("step", "identity", "seconds", "durations", "divergence")}
        return Restored(**known)
    if event == "rejected":
        return Rejected(message["step"], message["reason"], message["kept_as"])
    return _tidied(message)


def _tidied(message: Mapping[str, Any]) -> Answer:
    if message["event"] == "set_aside":
        return SetAside(tuple(message["steps"]))
    if message["event"] == "discarded_deleted":
        return DiscardedDeleted(tuple(message["names"]))
    if message["event"] == "parts_dropped":
        return PartsDropped(message["staging"])
    if message["event"] == "swept":
        return Swept(tuple(message["names"]))
    return failed(message.get("op", "persist"), message)


def failed(operation: str, message: Mapping[str, Any]) -> Answer:
    """What an operation says that came to nothing, by a message or a request that says of what."""
    step, problem = message["step"], message["problem"]
    if operation in TIDYING:
        return TidyFailed(problem)
    if operation == "persist_part":
        return PartFailed(step, message["staging"], problem)
    return RestoreFailed(step, problem) if operation == "restore" else PersistFailed(step, problem)
