"""The goodput ledger: every moment of a run, from its first launch to its end or to now, in exactly one bucket.

The time is laid out from its beginning, one span after the other, each from where the one before it ends; so nothing
is counted twice and nothing is left out. Of the spans in which steps were done that still count, a part went into
waiting for data, into snapshots or into evaluations; that is taken off them as it was measured. All of it is done in
whole microseconds, and the sum over the buckets is the whole, exactly.

A run that waits to be started again is accounted for up to where its last supervisor ended.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from resilient.errors import ExitCode
from resilient.report.buckets import GOOD, Bucket
from resilient.report.rounds import Incident, Round, Stretch, add_spent, incidents_of, walk
from resilient.report.tenures import Tenure, deciding
from resilient.report.tracks import Track
from resilient.report.undone import Undone, step_times, undone

_OF_PHASE: Mapping[str, Bucket] = {
    "new": Bucket.LAUNCH,
    "choosing": Bucket.LAUNCH,
    "restoring": Bucket.RESTORE,
    "waiting": Bucket.BACKOFF,
    "replaying": Bucket.REPLAY,
}


@dataclass(frozen=True)
class Span:
    """A piece of the run's time.

    :param incident: the one because of which it is not productive.
    :param parts: of the time, what belongs into other buckets.
    """

    begin: int
    end: int
    bucket: Bucket
    round: int | None = None
    incident: int | None = None
    parts: Mapping[Bucket, int] = field(default_factory=dict)

    @property
    def amounts(self) -> dict[Bucket, int]:
        """Microseconds by bucket; together the length of the span."""
        return {self.bucket: self.end - self.begin - sum(self.parts.values()), **self.parts}


@dataclass(frozen=True)
class Ledger:
    """Where the time of a run went. Moments are microseconds since the epoch.

    :param undone: of each round the steps that do not count any more.
    """

    began: int
    ended: int
    spans: tuple[Span, ...]
    rounds: tuple[Round, ...]
    incidents: tuple[Incident, ...]
    undone: Mapping[int, Sequence[Undone]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.ended - self.began

    @cached_property
    def buckets(self) -> dict[Bucket, int]:
        """Microseconds in each; they add up to ``total``."""
        found: Counter[Bucket] = Counter()
        for span in self.spans:
            found.update(span.amounts)
        return {bucket: found[bucket] for bucket in Bucket}

    @property
    def goodput(self) -> float:
        """The share of the time in which the run came to be what it is."""
        good = sum(amount for bucket, amount in self.buckets.items() if bucket in GOOD)
        return good / self.total if self.total else 0.0

    @cached_property
    def costs(self) -> dict[int, dict[Bucket, int]]:
        """Microseconds that each incident cost, by bucket."""
        found: dict[int, Counter[Bucket]] = {incident.number: Counter() for incident in self.incidents}
        for span in self.spans:
            if span.incident is not None:
                found.setdefault(span.incident, Counter()).update(span.amounts)
        return {number: dict(costs) for number, costs in found.items()}

    @cached_property
    def by_round(self) -> dict[int, list[Span]]:
        """The spans of each round."""
        found: dict[int, list[Span]] = {one.number: [] for one in self.rounds}
        for span in self.spans:
            if span.round is not None:
                found.setdefault(span.round, []).append(span)
        return found

    @cached_property
    def kept(self) -> dict[int, int]:
        """The last step of each round that no later one has undone; the one that it began after where there is none."""
        found, lowest = {}, math.inf
        for one in reversed(self.rounds):
            found[one.number] = int(max(one.step, min(one.reached, lowest)))
            lowest = min(lowest, one.step)
        return found


def keep_ledger(tenures: Sequence[Tenure], tracks: Mapping[int, Track], now: int | None = None) -> Ledger:
    """Account for a run.

    :param now: the moment, where its last supervisor is up; None where it is not.
    """
    chosen = deciding(tenures)
    if not chosen:
        return Ledger(0, 0, (), (), ())
    stretches = walk(chosen)
    rounds = [stretch.round for found in stretches for stretch in found if stretch.round is not None]
    add_spent(rounds, tenures)
    for one in rounds:
        track = tracks.get(one.number)
        if track is not None and track.steps:
            one.reached = max(one.reached, track.steps[-1])
    incidents = incidents_of(chosen)
    builder = _Builder(chosen[0].began, rounds, incidents, tracks)
    for index, (tenure, found) in enumerate(zip(chosen, stretches, strict=True)):
        if index:
            builder.between(chosen[index - 1], tenure)
        last = index == len(chosen) - 1
        live = last and now is not None
        end = max(tenure.ended, now or 0) if live else _end(tenure, found, tracks)
        builder.tenure(found, end, live=live)
    pieces = {one.number: builder.undone[id(one)] for one in rounds}
    return Ledger(chosen[0].began, builder.cursor, tuple(builder.spans), tuple(rounds), tuple(incidents), pieces)


def _end(tenure: Tenure, stretches: Sequence[Stretch], tracks: Mapping[int, Track]) -> int:
    """The last sign of life: of one that was killed, what its workers reported last may be that."""
    last = next((stretch.round for stretch in reversed(stretches) if stretch.round is not None), None)
    if tenure.closed or last is None:
        return tenure.ended
    track = tracks.get(last.number)
    signs = [tenure.placed_wall(track.times[-1])] if track is not None and track.times else []
    if last.last is not None and last.last.stepped is not None:
        signs.append(last.last.stepped)
    return max([tenure.ended, *signs])


class _Builder:
    """Lays one span after the other."""

    def __init__(
        self, began: int, rounds: Sequence[Round], incidents: Sequence[Incident], tracks: Mapping[int, Track]
    ) -> None:
        self.cursor = began
        self.spans: list[Span] = []
        self._tracks = tracks
        self._incidents = incidents
        self._moments = [incident.at for incident in incidents]
        self._launches = [one.launched for one in rounds]
        self._mark: float = -math.inf  # what came before that is over and done with
        self.undone = undone(rounds, {id(one): self._before(one, rounds) for one in rounds})

    def _before(self, one: Round, rounds: Sequence[Round]) -> int | None:
        """The incident because of which a round was launched."""
        found = bisect_right(self._moments, one.launched)
        before = bisect_right(self._launches, one.launched - 1)
        since = rounds[before - 1].launched if before else -math.inf
        return self._incidents[found - 1].number if found and self._moments[found - 1] > since else None

    def fill(
        self,
        until: int,
        bucket: Bucket,
        incident: int | None = None,
        one: Round | None = None,
        parts: Mapping[Bucket, int] | None = None,
    ) -> None:
        """Everything from where we are until then."""
        if until > self.cursor:
            number = one.number if one is not None else None
            self.spans.append(Span(self.cursor, until, bucket, number, incident, parts or {}))
            self.cursor = until

    def between(self, before: Tenure, after: Tenure) -> None:
        """Nobody had the run."""
        waits = not before.closed or before.exit_code == ExitCode.REQUEUE
        if waits:
            self.fill(after.began, Bucket.QUEUE, self._cause(self.cursor))
        else:
            self.fill(after.began, Bucket.IDLE)
            self._mark = self.cursor

    def tenure(self, stretches: Sequence[Stretch], end: int, *, live: bool) -> None:
        for index, stretch in enumerate(stretches):
            last = index == len(stretches) - 1
            until = end if last else min(stretches[index + 1].begin, end)
            if stretch.round is not None:
                self._round(stretch.round, until, live=live and last)
            else:
                self.fill(until, _OF_PHASE.get(stretch.phase, Bucket.SHUTDOWN), self._cause(self.cursor))

    def _cause(self, at: float) -> int | None:
        """Why the time at that moment is spent as it is: the last incident that has not been overcome, or else one that
        was still to be recorded before the next launch.
        """
        found = bisect_right(self._moments, at)
        if found and self._moments[found - 1] > self._mark:
            return self._incidents[found - 1].number
        following = bisect_right(self._launches, at)
        until = self._launches[following] if following < len(self._launches) else math.inf
        if found < len(self._moments) and self._moments[found] <= until:
            return self._incidents[found].number
        return None

    def _round(self, one: Round, end: int, *, live: bool) -> None:
        cause = self._before_launch(one)
        last = one.last
        self.fill(min(one.workers or end, end), Bucket.IMPORT if one.first else Bucket.LAUNCH, cause, one)
        curve = step_times(one, self._track_of(one))
        if last is not None and last.ready is not None:
            self.fill(min(last.attaching or 0, end), Bucket.IMPORT, cause, one)
            self.fill(min(last.ready, end), Bucket.RESTORE, cause, one)
        elif curve:
            self.fill(min(curve[0][0], end), Bucket.IMPORT, cause, one)
        elif not one.signs:
            self.fill(end, Bucket.IMPORT, cause, one)
        if self.cursor < end and (curve or last is not None):
            self._mark = self.cursor - 1
        self._steps(one, curve, end)
        self._tail(one, end, live=live)

    def _track_of(self, one: Round) -> Track | None:
        """What a round reported, where its boards do not say all that has to be known: it may be much."""
        last = one.last
        if not self.undone[id(one)] and last is not None and last.stepped is not None and last.step >= one.reached:
            return None
        return self._tracks.get(one.number)

    def _before_launch(self, one: Round) -> int | None:
        found = bisect_right(self._moments, one.launched)
        if found and self._moments[found - 1] > self._mark:
            return self._incidents[found - 1].number
        return None

    def _steps(self, one: Round, curve: Sequence[tuple[int, int]], end: int) -> None:
        """Those that count, and above them those that were undone."""
        if not curve or one.reached <= one.step:
            return
        ready, ranges = self.cursor, self.undone[id(one)]
        kept = ranges[0].above if ranges else one.reached
        if kept > one.step:
            until = min(_time_of(curve, kept), end)
            self.fill(until, Bucket.STEPS, None, one, _parts(one, ready, until))
        for piece in ranges:
            self.fill(min(_time_of(curve, piece.upto), end), piece.bucket, piece.incident, one)

    def _tail(self, one: Round, end: int, *, live: bool) -> None:
        """What came after the last step."""
        if live and not one.signs:
            self.fill(end, Bucket.STEPS, None, one)
            return
        cause = self._cause(end)
        noticed = min((at for at in one.signs if at >= self.cursor), default=end)
        cut_short = Bucket.HANG if one.hung else Bucket.DISCARDED if one.rolled_back else Bucket.LOST
        if one.signs or one.over is None:
            self.fill(min(noticed, end), cut_short, cause, one)
        self.fill(end, Bucket.HANG if one.hung else Bucket.SHUTDOWN, cause, one)


def _time_of(curve: Sequence[tuple[int, int]], step: int) -> int:
    """When a step was completed, by the points around it."""
    at = bisect_right(curve, step, key=lambda point: point[1])
    if not at:
        return curve[0][0]
    (time, known), following = curve[at - 1], curve[at] if at < len(curve) else None
    if known == step or following is None:
        return time
    return time + (following[0] - time) * (step - known) // (following[1] - known)


def _parts(one: Round, begin: int, end: int) -> dict[Bucket, int]:
    """What between two moments went into something else than steps, by the notes around them."""
    found: Counter[Bucket] = Counter()
    at, known = begin, dict.fromkeys((Bucket.DATA, Bucket.STALL, Bucket.EVALUATION), 0)
    for spent in one.spent:
        length, inside = spent.until - at, min(spent.until, end) - at
        if length <= 0 or inside <= 0:
            continue
        for bucket, amount in spent.amounts.items():
            found[bucket] += max(0, amount - known[bucket]) * inside // length
        at, known = spent.until, {**known, **spent.amounts}
    left, parts = end - begin, {}
    for bucket, amount in found.items():
        if taken := min(amount, left):
            parts[bucket], left = taken, left - taken
    return parts
