"""What is done about a divergence: the rungs, each tried when the one before it did not help.

1. roll back to the newest good snapshot at or before onset − margin, and skip the data from there to alarm + margin;
2. the same, from the good snapshot before that one; where there is none, from one that no divergence shadows; and where
   the run is young, from its beginning;
3. and from the third on with a lower learning rate each time, which stays lowered;
4. stop, with the evidence.

One *episode* is a divergence and whatever recurs before training has come ``probation`` steps past the step at which it
was certain: what is slow to be seen, as a drift is, needs as long to be seen again. An
episode that is over begins the rungs anew, but not the budget of rollbacks, and does not give the learning rate back.
Patience, the rung before the first, belongs to the detectors: what recovers by itself never comes here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from resilient.policy.divergence.known_good import Grade, KnownGood
from resilient.policy.divergence.settings import DivergenceSettings
from resilient.policy.divergence.verdicts import Divergence


@dataclass(frozen=True)
class LadderState:
    """Survives crash, preemption and requeue; it is the run's, not the snapshot's, which a rollback would undo.

    :param targets: snapshots rolled back to in this episode, the oldest attempt first.
    :param until: the episode is over when training has passed this step; None outside one.
    :param skipped_to: the last step whose data is left out, as the steps were counted before the rollback.
    :param rollbacks: of the whole run.
    :param lr_factor: what the learning rate is multiplied by from now on.
    """

    targets: tuple[int, ...] = ()
    until: int | None = None
    skipped_to: int = 0
    rollbacks: int = 0
    lr_factor: float = 1.0

    def to_json(self) -> list[Any]:
        return [list(self.targets), self.until, self.skipped_to, self.rollbacks, self.lr_factor]

    @classmethod
    def from_json(cls, saved: Any) -> LadderState:
        """What :meth:`to_json` made; ValueError or TypeError for anything else."""
        targets, until, skipped_to, rollbacks, lr_factor = saved
        end = None if until is None else int(until)
        return cls(tuple(map(int, targets)), end, int(skipped_to), int(rollbacks), float(lr_factor))


@dataclass(frozen=True)
class RollBack:
    """:param target: the snapshot to go on from.
    :param skip: first and last step whose data is left out, as steps were counted until now; None for none.
    :param lr_factor: for all steps from there on, of what the script itself sets.
    """

    target: int
    skip: tuple[int, int] | None
    lr_factor: float
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """The run stops: :attr:`resilient.errors.ExitCode.DIVERGED`."""

    reason: str


Response: TypeAlias = "RollBack | GiveUp"


def respond(
    settings: DivergenceSettings, state: LadderState, known: KnownGood, found: Divergence
) -> tuple[LadderState, Response]:
    """The next rung for ``found``; ``known`` has heard of it already."""
    state, ladder = advanced(state, found.onset_step - 1), settings.ladder
    attempt = len(state.targets) + 1
    if attempt > ladder.attempts:
        return state, GiveUp(f"{_what(found)}; {len(state.targets)} rollbacks did not help")
    if state.rollbacks >= ladder.budget:
        return state, GiveUp(f"{_what(found)}; the budget of {ladder.budget} rollbacks is spent")
    chosen = _target(settings, known, found, state.targets)
    if chosen is None:
        return state, GiveUp(f"{_what(found)}; no snapshot is older than its onset by {settings.margin} steps")
    target, why = chosen
    factor = state.lr_factor * ladder.lr_factor if attempt >= ladder.cut_from else state.lr_factor
    last = _skipped_to(settings, state, found, target)
    after = LadderState(
        targets=(*state.targets, target),
        until=max(state.until or 0, found.step + ladder.probation),
        skipped_to=last if ladder.skip else state.skipped_to,
        rollbacks=state.rollbacks + 1,
        lr_factor=factor,
    )
    reason = f"{_what(found)}; {why}, attempt {attempt} of {ladder.attempts}"
    return after, RollBack(target, (target + 1, last) if ladder.skip else None, factor, reason)


def soundest(settings: DivergenceSettings, known: KnownGood, found: Divergence) -> int | None:
    """Where a run that was given up stands best for whoever takes it up again; None where all there is is spoilt."""
    chosen = _target(settings, known, found, ())
    return None if chosen is None else chosen[0]


def advanced(state: LadderState, step: int) -> LadderState:
    """Training has reached ``step`` without a divergence."""
    if state.until is None or step <= state.until:
        return state
    return replace(state, targets=(), until=None)


def _skipped_to(settings: DivergenceSettings, state: LadderState, found: Divergence, target: int) -> int:
    """The last step whose data is left out. Where it went wrong again just after the target, with the data that came
    after it left out already, that was not enough: what follows until the verdict, and at least twice as much again.
    """
    if target not in state.targets or found.onset_step - settings.margin >= target:
        return found.alarm_step + settings.margin
    return max(found.step + settings.margin, target + 2 * (state.skipped_to - target))


def _target(
    settings: DivergenceSettings, known: KnownGood, found: Divergence, tried: tuple[int, ...]
) -> tuple[int, str] | None:
    """The last one once more where it went wrong again at once: it was good, so the data is bad, and there is more of
    it than was thought. Else a good snapshot older than any tried; else an unproven one; else the beginning of a run
    that is young; else the oldest tried once more.
    """
    latest = found.onset_step - settings.margin
    last = tried[-1] if settings.ladder.skip and tried and tried.count(tried[-1]) == 1 else None
    if last is not None and latest < last < found.onset_step and any(item.step == last for item in known.snapshots):
        return last, "once more, leaving out more, as what came next was no better"
    deepest = min(latest, min(tried, default=latest + 1) - 1)
    good = known.newest_good(deepest)
    if good is not None:
        return good, "the newest known good snapshot" + (" before the last" if tried else "")
    unproven = max(
        (item.step for item in known.snapshots if item.grade is Grade.TAKEN and item.step <= deepest), default=None
    )
    if unproven is not None:
        return unproven, "a snapshot that no divergence shadows, though its probation was not over"
    if max(1, found.onset_step) <= settings.ladder.restart_within:
        return 0, "once more" if 0 in tried else "no older snapshot is sound"
    again = min(tried, default=None)
    if again is not None and again <= latest and any(item.step == again for item in known.snapshots):
        return again, "once more, as there is none before it"
    return None


def _what(found: Divergence) -> str:
    return f"{found.kind.value} of {found.metric} since step {found.onset_step}"
