"""Which steps of a round still count: those that no later round has begun in front of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resilient.report.buckets import Bucket
from resilient.report.rounds import Round
from resilient.report.tracks import Track


@dataclass(frozen=True)
class Undone:
    """Steps of one round, from the one after ``above`` to ``upto``, that a later one did over."""

    above: int
    upto: int
    bucket: Bucket
    incident: int | None


def undone(rounds: Sequence[Round], causes: Mapping[int, int | None]) -> dict[int, list[Undone]]:
    """Of each round, by ``id``, the lowest first. Each step counts for the first round that undid it.

    :param causes: of each round, by ``id``, the incident because of which it was launched.
    """
    found: dict[int, list[Undone]] = {}
    lower: list[Round] = []  # the nearest last; each begins further back than all that come before it in time
    for one in reversed(rounds):
        pieces, upto = [], one.reached
        for later in reversed(lower):
            if upto <= one.step:
                break
            if later.step < upto:
                above = max(later.step, one.step)
                pieces.append(Undone(above, upto, later.undoes, causes[id(later)]))
                upto = above
        found[id(one)] = pieces[::-1]
        while lower and lower[-1].step >= one.step:
            lower.pop()
        lower.append(one)
    return found


def step_times(one: Round, track: Track | None) -> list[tuple[int, int]]:
    """When a round had completed which step: points that rise in both, the first of them where its steps begin; empty
    where there was none.
    """
    points = [(spent.stepped, spent.step) for spent in one.spent if spent.stepped is not None]
    begin = one.last.ready if one.last is not None else None
    if track is not None:
        placed = one.tenure.placed_wall
        points += [(placed(time), step) for time, step in zip(track.times, track.steps, strict=True)]
    if one.running is not None and not points:
        points = [(one.running, one.reached)]
    if not points:
        return []
    points.sort()
    first = begin if begin is not None else min(one.running or points[0][0], points[0][0])
    found = [(max(first, one.launched), one.step)]
    for time, step in points:
        if step > found[-1][1] and time >= found[-1][0] and step <= one.reached:
            found.append((time, step))
    return found
