"""Which snapshots can be trusted: pure bookkeeping beside the detectors.

taken ──(``good_after`` steps without an alarm)──▶ good
taken or good ──(alarm whose onset, less ``margin``, lies before it)──▶ suspect
suspect ──(the alarm recovers)──▶ taken: the probation begins anew
suspect ──(divergence, rollback)──▶ off the lineage

A good snapshot becomes suspect as well: a drift is dated back farther than any probation lasts. The mere alarm of a
drift shadows nothing: healthy losses wander too, and with each such alarm nothing would ever become good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from resilient.policy.divergence.settings import DivergenceSettings
from resilient.policy.divergence.verdicts import Alarm, Divergence, DivergenceKind, Finding


class Grade(Enum):
    """What is thought of one snapshot."""

    TAKEN = "taken"
    GOOD = "good"
    SUSPECT = "suspect"


@dataclass(frozen=True)
class Graded:
    """:param step: the snapshot's.
    :param since: the probation counts from here: its own step, or the recovery of an alarm.
    """

    step: int
    grade: Grade
    since: int


@dataclass(frozen=True)
class KnownGood:
    """The snapshots that exist, oldest first; as many as retention keeps.

    :param onset: of the earliest alarm that is open; nothing becomes good meanwhile.
    """

    snapshots: tuple[Graded, ...] = ()
    onset: int | None = None

    def followed(
        self, settings: DivergenceSettings, step: int, findings: Iterable[Finding], open_onset: int | None
    ) -> KnownGood:
        """What the detectors made of ``step``: their findings, and :attr:`MonitorState.open_onset` after it."""
        known = self
        for found in findings:
            is_drift = found.kind is DivergenceKind.DRIFT
            if isinstance(found, Divergence) or (isinstance(found, Alarm) and not is_drift):
                known = known.alarmed(found.onset_step, settings.margin)
        if open_onset is None and known.onset is not None:
            return known.recovered(step)
        return known.advanced(step, settings.good_after)

    def taken(self, step: int, margin: int) -> KnownGood:
        """A snapshot was taken; suspect from birth while an alarm is open. One of the same step replaces the other."""
        grade = Grade.TAKEN if self.onset is None or step <= self.onset - margin else Grade.SUSPECT
        kept = tuple(item for item in self.snapshots if item.step != step)
        return replace(self, snapshots=tuple(sorted((*kept, Graded(step, grade, step)), key=lambda item: item.step)))

    def advanced(self, step: int, good_after: int) -> KnownGood:
        """Training has reached ``step``."""
        if self.onset is not None:
            return self
        return self._graded(
            lambda item: (
                replace(item, grade=Grade.GOOD)
                if item.grade is Grade.TAKEN and step - item.since >= good_after
                else item
            )
        )

    def alarmed(self, onset: int, margin: int) -> KnownGood:
        """An alarm, or a divergence, with that onset."""
        onset = onset if self.onset is None else min(onset, self.onset)
        marked = self._graded(lambda item: replace(item, grade=Grade.SUSPECT) if item.step > onset - margin else item)
        return replace(marked, onset=onset)

    def recovered(self, step: int) -> KnownGood:
        """All alarms are over, at ``step``: what was suspect is on probation again, from here."""
        freed = self._graded(lambda item: Graded(item.step, Grade.TAKEN, step) if item.grade is Grade.SUSPECT else item)
        return replace(freed, onset=None)

    def rolled_back(self, step: int) -> KnownGood:
        """Training goes on from ``step``; what came after is off the lineage. Where a person wants to go on from a
        suspect one, that is on probation again.
        """
        kept = KnownGood(tuple(item for item in self.snapshots if item.step <= step), self.onset)
        return kept.recovered(step)

    def only(self, steps: Iterable[int]) -> KnownGood:
        """No others exist any more: retention deleted them, or they failed verification."""
        left = set(steps)
        return replace(self, snapshots=tuple(item for item in self.snapshots if item.step in left))

    def found(self, steps: Iterable[int], now: int) -> KnownGood:
        """These exist. Of those that were not known of, nothing is known but that training goes on from ``now``: their
        probation begins there.
        """
        known = {item.step for item in self.snapshots}
        grade = Grade.TAKEN if self.onset is None else Grade.SUSPECT
        fresh = tuple(Graded(step, grade, max(step, now)) for step in sorted(set(steps) - known))
        return replace(self, snapshots=tuple(sorted((*self.snapshots, *fresh), key=lambda item: item.step)))

    def newest_good(self, not_after: int | None = None) -> int | None:
        """The step of the newest good snapshot, at or before ``not_after``."""
        good = (item.step for item in self.snapshots if item.grade is Grade.GOOD)
        return max((step for step in good if not_after is None or step <= not_after), default=None)

    def to_keep(self, step: int, latency: int, margin: int, rungs: int = 0) -> frozenset[int]:
        """What retention must not delete: the newest good one, the newest good one that an alarm of now would leave
        good, and their heirs, without which there would be none to follow them: the oldest good one after that, and
        the oldest whose probation is not over. And some more to go deeper by small steps.

        :param latency: steps between an onset and its alarm, at the most.
        :param rungs: so many good ones before the newest, at distances from it that about double.
        """
        newest, settled = self.newest_good(), self.newest_good(step - latency - margin)
        heirs = (
            min((item.step for item in self.snapshots if item.grade is grade and item.step > after), default=None)
            for grade, after in ((Grade.GOOD, step - latency - margin), (Grade.TAKEN, -1 if newest is None else newest))
        )
        return frozenset(item for item in (newest, settled, *heirs, *self._rungs(rungs)) if item is not None)

    def _rungs(self, count: int) -> list[int]:
        """Of the good ones before the newest, those that are left when, until there are ``count``, always the one goes
        without which its neighbours lie nearest to each other, as their distances from the newest compare.
        """
        *steps, newest = sorted(item.step for item in self.snapshots if item.grade is Grade.GOOD) or [0]
        while len(steps) > count:
            away = [newest, *(newest - step for step in steps), (newest - steps[-1]) / 2]
            gaps = [far / near for far, near in zip(away, away[2:], strict=False)]
            steps.pop(gaps.index(min(gaps)))
        return steps

    def _graded(self, change: Callable[[Graded], Graded]) -> KnownGood:
        return replace(self, snapshots=tuple(map(change, self.snapshots)))

    def to_json(self) -> dict[str, Any]:
        return {
            "snapshots": [[item.step, item.grade.value, item.since] for item in self.snapshots],
            "onset": self.onset,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> KnownGood:
        """What :meth:`to_json` made; ValueError, KeyError or TypeError for anything else."""
        onset = saved["onset"]
        snapshots = tuple(Graded(int(step), Grade(grade), int(since)) for step, grade, since in saved["snapshots"])
        return cls(snapshots, None if onset is None else int(onset))
