"""Which node leads: from looks at the directory of terms, again and again, never waiting for anything.

Nobody begins a term while the leader of the last one shows signs of life. They are watched on the own clock alone, for
clocks of machines differ: what counts is that nothing has changed for as long as was looked. So a leader that only
stood still for a while may lose its term; it finds out before it does anything else, and what it had begun does not
count. That two nodes want the same term is settled by who claims it first; a small delay for all but one spares them
the race.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resilient.protocol.terms import Term, Terms

_DELAY_SECONDS = 2.0  # until a node takes the lead for which another one is preferred


@dataclass(frozen=True)
class Lead:
    """The lead is this node's, in a term that it has just claimed."""

    term: Term


@dataclass(frozen=True)
class Follow:
    """Another node leads."""

    term: Term


@dataclass(frozen=True)
class LeaseWatch:
    """What was seen of one term's leader.

    :param since: when its last sign of life had been read, at the latest.
    """

    number: int
    sign: bytes
    since: float

    @classmethod
    def looked(
        cls, before: LeaseWatch | None, number: int, sign: bytes, *, began: float, ended: float
    ) -> tuple[LeaseWatch, float]:
        """One more look, and for how many seconds nothing has changed at the least.

        Between two readings of the same sign nothing has happened; of the time for which this process was not running
        itself, before or after it read, nothing is concluded.

        :param began: when the look began, before anything was read.
        :param ended: when all was read.
        """
        if before is None or (before.number, before.sign) != (number, sign):
            return cls(number, sign, ended), 0.0
        return before, max(0.0, began - before.since)


class Election:
    """One node's part in it."""

    def __init__(
        self,
        terms: Terms,
        node: str,
        address: str,
        token: str,
        *,
        lease_seconds: float,
        clock: Callable[[], float],
        preferred: Callable[[], bool] | None = None,
    ) -> None:
        """Nothing is done yet.

        :param node: its name. No other supervisor has that name; so a term of the same name is over.
        :param address: where it would listen, as ``host:port``.
        :param token: the secret of its connections.
        :param preferred: it should lead, where it can be chosen; the first node of a job where nothing is said.
        """
        self._terms = terms
        self._node = node
        self._address = address
        self._token = token
        self._lease = lease_seconds
        self._clock = clock
        self._preferred = is_first_of_job if preferred is None else preferred
        self._watch: LeaseWatch | None = None
        self._vacant: tuple[int, float] | None = None  # the last term, and since when it has no leader

    def poll(self) -> Lead | Follow | str:
        """One look.

        :returns: what this node is to do; or, in words, what it waits for.
        :raises TermUnreadable: the newest claim is not one of ours.
        :raises RunDirectoryNotWritable: the filesystem cannot be used for it.
        """
        began = self._clock()
        try:
            newest = self._terms.newest()
            closed = newest is not None and self._terms.is_closed(newest)
            sign = self._terms.sign_of_life(newest) if newest is not None else b""
        except OSError as error:
            return f"who leads cannot be read: {error.strerror}"
        if newest is not None and not closed and newest.node != self._node:
            watch = self._watch
            self._watch, silent = LeaseWatch.looked(watch, newest.number, sign, began=began, ended=self._clock())
            if silent < self._lease:
                self._vacant = None
                return Follow(newest)
        number = 0 if newest is None else newest.number
        if self._has_to_wait(newest, number, began):
            return "another node may take the lead"
        term = Term(number + 1, self._node, self._address, self._token)
        try:
            return Lead(term) if self._terms.claim(term) else "another node was quicker to take the lead"
        except OSError as error:
            return f"the lead cannot be taken: {error.strerror}"

    def _has_to_wait(self, newest: Term | None, number: int, now: float) -> bool:
        if self._vacant is None or self._vacant[0] != number:
            self._vacant = number, now
        mine = newest is not None and newest.node == self._node
        return not mine and not self._preferred() and now - self._vacant[1] < _DELAY_SECONDS


def is_first_of_job(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a scheduler has started this process on the first of several nodes."""
    return environ.get("SLURM_NODEID") == "0"
