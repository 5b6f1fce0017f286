"""Retention: which committed snapshots stay, and why. A pure function of the catalog.

Every rule names snapshots that it wants; what no rule wants may go. The rules are independent of each other, so adding
one never deletes more, and what was kept stays kept when the same rules are applied again. A snapshot that cannot be
read is no candidate: it neither counts as one of the last nor is it deleted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from resilient.protocol.settings import BestMode, RetentionSettings


class Reason(str, Enum):
    """Why a snapshot stays."""

    NEWEST = "newest"
    GOOD = "newest-good"
    LAST = "last"
    BEST = "best"
    EVERY_STEPS = "every-steps"
    EVERY_SECONDS = "every-seconds"
    PINNED = "pinned"
    IN_USE = "in-use"
    UNKNOWN = "lineage-unreadable"


@dataclass(frozen=True)
class Candidate:
    """What retention needs to know of a committed snapshot.

    :param created: seconds since the epoch.
    """

    step: int
    created: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False

    @property
    def good(self) -> bool:
        """Whether all that was reported last before it are finite numbers."""
        return all(map(math.isfinite, self.metrics.values()))


@dataclass(frozen=True)
class Verdict:
    """Steps that may be deleted, oldest first, and the reasons of all others."""

    removable: tuple[int, ...]
    kept: Mapping[int, tuple[Reason, ...]]


def judge(
    candidates: Collection[Candidate],
    settings: RetentionSettings,
    *,
    in_use: Collection[int] = (),
    good: Collection[int] = (),
) -> Verdict:
    """Decide which of ``candidates`` may be deleted; never the newest, so never the only one, nor the newest good one.

    :param in_use: steps that stay whatever the settings say, such as the one committed last after a rollback.
    :param good: likewise, those that a rollback may need.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.step)
    wanted = {reason: frozenset(rule(ordered, settings)) for reason, rule in _RULES.items()}
    wanted[Reason.GOOD] |= frozenset(good)
    kept: dict[int, tuple[Reason, ...]] = {}
    for candidate in ordered:
        reasons = tuple(reason for reason, steps in wanted.items() if candidate.step in steps)
        if reasons or candidate.step in in_use:
            kept[candidate.step] = reasons or (Reason.IN_USE,)
    return Verdict(tuple(candidate.step for candidate in ordered if candidate.step not in kept), kept)


def best_first(candidates: Sequence[Candidate], metric: str, mode: BestMode) -> list[int]:
    """Steps with a finite value of ``metric``, the best first; of equal ones, the newer first."""
    sign = 1.0 if mode is BestMode.min else -1.0
    ranked = [
        (sign * candidate.metrics[metric], -candidate.step)
        for candidate in candidates
        if math.isfinite(candidate.metrics.get(metric, math.nan))
    ]
    return [-negative for _, negative in sorted(ranked)]


# --- the rules: steps, oldest first, that each of them wants

_Rule = Callable[[Sequence[Candidate], RetentionSettings], "Iterator[int]"]


def _newest(ordered: Sequence[Candidate], _settings: RetentionSettings) -> Iterator[int]:
    yield from (candidate.step for candidate in ordered[-1:])


def _newest_good(ordered: Sequence[Candidate], _settings: RetentionSettings) -> Iterator[int]:
    """Where the newest one is not good, the newest one that is: what comes after a loss of NaN is no state to go on
    from, however new it is.
    """
    good = [candidate.step for candidate in ordered if candidate.good][-1:]
    yield from (step for step in good if step != ordered[-1].step)


def _last(ordered: Sequence[Candidate], settings: RetentionSettings) -> Iterator[int]:
    yield from (candidate.step for candidate in ordered[-settings.last :])


def _best(ordered: Sequence[Candidate], settings: RetentionSettings) -> Iterator[int]:
    yield from best_first(ordered, settings.best_metric, settings.best_mode)[: settings.best]


def _every_steps(ordered: Sequence[Candidate], settings: RetentionSettings) -> Iterator[int]:
    if settings.every_steps:
        yield from (candidate.step for candidate in ordered if candidate.step % settings.every_steps == 0)


def _every_seconds(ordered: Sequence[Candidate], settings: RetentionSettings) -> Iterator[int]:
    """From the oldest on, because a chain that began with the newest would move with each new snapshot, and nothing
    would ever grow old.
    """
    if not settings.every_seconds:
        return
    due = -math.inf
    for candidate in sorted(ordered, key=lambda candidate: (candidate.created, candidate.step)):
        if candidate.created >= due:
            due = candidate.created + settings.every_seconds
            yield candidate.step


def _pinned(ordered: Sequence[Candidate], _settings: RetentionSettings) -> Iterator[int]:
    yield from (candidate.step for candidate in ordered if candidate.pinned)


_RULES: dict[Reason, _Rule] = {
    Reason.NEWEST: _newest,
    Reason.GOOD: _newest_good,
    Reason.LAST: _last,
    Reason.BEST: _best,
    Reason.EVERY_STEPS: _every_steps,
    Reason.EVERY_SECONDS: _every_seconds,
    Reason.PINNED: _pinned,
}
