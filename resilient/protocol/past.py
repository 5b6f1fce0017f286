"""The past of what is in a node's memory: the rounds that have written it, so that images on several nodes can be told
to belong together, whoever leads by now.

Two images of one step belong together when the same round has taken both, or when both lay in memory already as a round
began that both nodes took part in. So each node keeps, beside its images, the rounds that went on from one another's
memory, the first of which had to begin with something else. Memory outlives supervisors, leaders and their terms; what
the memories of some nodes have in common follows from these lists alone (:func:`common_past`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resilient.protocol.pages import FULL
from resilient.protocol.paths import RunPaths

_FILE = "past.json"
_MOST = 16  # rounds that are remembered; nobody stays away for so many and comes back with something newer

Counts = Callable[[int, int, int], bool]
"""Whether a step, taken in a term by a round (given by their numbers), is on the branch of the run that goes on."""


@dataclass(frozen=True)
class Began:
    """A round, as it was begun. No two have the same term and number.

    :param step: that it began from; it discarded what was in memory of later ones.
    """

    term: int
    round: int
    step: int


@dataclass(frozen=True)
class Past:
    """What is in one node's memory.

    :param world: how many ranks there are in all. To another number of ranks an image means nothing.
    :param rounds: that went on from one another's memory, the oldest first; none where that is not known.
    :param foreign: steps that were read into memory from elsewhere since.
    """

    world: int
    rounds: tuple[Began, ...] = ()
    foreign: frozenset[int] = frozenset()

    def followed_by(self, began: Began) -> Past:
        """After a round that went on from this memory."""
        kept = frozenset(step for step in self.foreign if step <= began.step)
        return Past(self.world, (*self.rounds, began)[-_MOST:], kept)

    def with_foreign(self, step: int) -> Past:
        return replace(self, foreign=self.foreign | {step})

    def to_json(self) -> dict[str, Any]:
        return {
            "world": self.world,
            "rounds": [list(asdict(began).values()) for began in self.rounds],
            "foreign": sorted(self.foreign),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Past:
        """:raises ValueError: it is none."""
        try:
            rounds = tuple(Began(*map(int, began)) for began in body["rounds"])
            return cls(int(body["world"]), rounds, frozenset(map(int, body["foreign"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no past of a memory: {error!r}") from error

    @classmethod
    def read(cls, directory: Path) -> Past | None:
        """Of the memory in a directory; None where it is not known."""
        with suppress(OSError, ValueError, RecursionError):
            return cls.from_json(json.loads((directory / _FILE).read_bytes()))
        return None

    def write(self, directory: Path) -> None:
        """Where there is no room for it, it is not known."""
        path = directory / _FILE
        fresh = RunPaths.fresh(path)
        try:
            fresh.write_text(json.dumps(self.to_json()))
            fresh.replace(path)  # it lies in memory: there is nothing to be made durable
        except OSError as error:
            if error.errno not in FULL:
                raise
            for left in (path, fresh):
                left.unlink(missing_ok=True)


@dataclass(frozen=True)
class CommonPast:
    """What the memories of some nodes have in common.

    :param past: of all of them.
    :param until: images of later steps are not of it; None where all are.
    """

    past: Past
    until: int | None = None

    @property
    def last(self) -> Began:
        """The last round that all took part in."""
        return self.past.rounds[-1]

    def holds(self, step: int) -> bool:
        """Whether all images of the step that there are in these memories belong together."""
        return (self.until is None or step <= self.until) and step not in self.past.foreign


def common_past(pasts: Iterable[Past | None]) -> CommonPast | None:
    """None where there is none, or it is not known of one of them."""
    known = dict.fromkeys(pasts)  # of a thousand nodes, nearly all have the same
    there = [past for past in known if past is not None]
    if not there or len(there) < len(known) or len({past.world for past in there}) > 1:
        return None
    rounds = tuple(began for began in there[0].rounds if all(began in past.rounds for past in there))
    if not rounds:
        return None
    # What a round that not all took part in has written is of later steps than the one it began from.
    later = [began.step for past in there for began in past.rounds[past.rounds.index(rounds[-1]) + 1 :]]
    foreign = frozenset[int]().union(*(past.foreign for past in there))
    return CommonPast(Past(there[0].world, rounds, foreign), min(later, default=None))
