"""The lineage: the chain of snapshots and rollbacks that leads to the current state, and what is thought of each.

It belongs to the run and not to a snapshot, for a rollback to an older snapshot must not undo it: it says which
snapshots are discarded, which data is left out, how far the learning rate is lowered, and what has been tried already.
It goes through JSON unchanged and is written down before any of it is acted on.

Whether a snapshot is on the lineage follows from its step and its round alone (:meth:`Lineage.holds`), so it does not
matter what a crash in the middle of a rollback leaves behind, nor in which tier it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.divergence.ladder import LadderState

FORMAT = 1


@dataclass(frozen=True)
class Skip:
    """Data that is left out: from ``start`` on, ``end`` not included.

    :param start: epoch, and offset in it.
    :param end: likewise.
    :param unit: what offsets count: ``"samples"`` of the epoch's order over all ranks, which mean the same at any world
        size and batch size; or ``"batches"`` of one rank, where the order is not ours to know.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    unit: str = "samples"

    def to_json(self) -> list[Any]:
        return [list(self.start), list(self.end), self.unit]

    @classmethod
    def from_json(cls, saved: Any) -> Skip:
        """What :meth:`to_json` made; ValueError or TypeError for anything else."""
        start, end, unit = saved
        (start_epoch, start_offset), (end_epoch, end_offset) = start, end
        return cls((int(start_epoch), int(start_offset)), (int(end_epoch), int(end_offset)), str(unit))


class RollbackCause(str, Enum):
    """Who wanted it."""

    DIVERGENCE = "divergence"
    REQUEST = "request"
    HARDWARE = "hardware"


@dataclass(frozen=True)
class Rollback:
    """One rollback of the run.

    :param target: the step that the run went on from; 0 for its beginning.
    :param reached: the furthest step that was discarded.
    :param round: the last round that took part in what was discarded; -1 when there had been none.
    :param skip: first and last step whose data is left out, as steps were counted until then; None for none.
    :param skipped: the same in the data's own position, once a worker has said so.
    :param lr_factor: what the learning rate is multiplied by from there on, altogether.
    """

    target: int
    reached: int
    round: int
    skip: tuple[int, int] | None = None
    skipped: Skip | None = None
    lr_factor: float = 1.0
    cause: RollbackCause = RollbackCause.DIVERGENCE
    reason: str = ""

    @property
    def told(self) -> str:
        """What was done, as the end of a sentence."""
        where = f"to step {self.target}" if self.target else "to the beginning"
        left_out = f", leaving out the data of steps {self.skip[0]} to {self.skip[1]}" if self.skip else ""
        return where + left_out + (f", learning rate × {self.lr_factor:g}" if self.lr_factor != 1 else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "reached": self.reached,
            "round": self.round,
            "skip": None if self.skip is None else list(self.skip),
            "skipped": None if self.skipped is None else self.skipped.to_json(),
            "lr_factor": self.lr_factor,
            "cause": self.cause.value,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Rollback:
        """What :meth:`to_json` made; ValueError, KeyError or TypeError for anything else."""
        skip = saved["skip"]
        return cls(
            int(saved["target"]),
            int(saved["reached"]),
            int(saved["round"]),
            None if skip is None else (int(skip[0]), int(skip[1])),
            None if saved["skipped"] is None else Skip.from_json(saved["skipped"]),
            float(saved["lr_factor"]),
            RollbackCause(saved["cause"]),
            str(saved["reason"]),
        )


@dataclass(frozen=True)
class Fork:
    """What the run began with, where it began with another run's snapshot.

    :param identity: the snapshot's.
    """

    run: str
    step: int
    identity: str

    def to_json(self) -> list[Any]:
        return [self.run, self.step, self.identity]

    @classmethod
    def from_json(cls, saved: Any) -> Fork:
        run, step, identity = saved
        return cls(str(run), int(step), str(identity))


@dataclass(frozen=True)
class Lineage:
    """What a run is the continuation of.

    :param rollbacks: all of them, the oldest first.
    :param pending: the last one is decided, and no round has begun from its target yet.
    :param inherited: data left out by the run that this one was forked from.
    :param inherited_lr_factor: likewise, of the learning rate.
    """

    rollbacks: tuple[Rollback, ...] = ()
    pending: bool = False
    known: KnownGood = field(default_factory=KnownGood)
    ladder: LadderState = field(default_factory=LadderState)
    forked_from: Fork | None = None
    inherited: tuple[Skip, ...] = ()
    inherited_lr_factor: float = 1.0

    @property
    def target(self) -> int | None:
        """Where the run has to go on from, at the latest; None while no rollback waits for that."""
        return self.rollbacks[-1].target if self.pending else None

    @property
    def lr_factor(self) -> float:
        """What the learning rate is multiplied by now."""
        return self.rollbacks[-1].lr_factor if self.rollbacks else self.inherited_lr_factor

    @property
    def skips(self) -> tuple[Skip, ...]:
        """All data that is left out, as far as a worker has said where it lies."""
        own = tuple(rollback.skipped for rollback in self.rollbacks if rollback.skipped is not None)
        return self.inherited + own

    @property
    def unresolved(self) -> tuple[tuple[int, int], ...]:
        """First and last steps whose data is to be left out, where no worker has said yet which data that is: each as
        steps were counted with the ones before it left out, from the target of any later rollback too. It goes back no
        less far, so the steps up to the first of them are the same ones.
        """
        return tuple(back.skip for back in self.rollbacks if back.skip is not None and back.skipped is None)

    def holds(self, step: int, round_number: int) -> bool:
        """Whether a snapshot of ``step``, taken in that round, is on the lineage and not discarded."""
        return not any(step > rollback.target and round_number <= rollback.round for rollback in self.rollbacks)

    def rolled_back(self, rollback: Rollback) -> Lineage:
        """The run goes on from an earlier step."""
        known = self.known.rolled_back(rollback.target)
        return replace(self, rollbacks=(*self.rollbacks, rollback), pending=True, known=known)

    def retargeted(self, step: int) -> Lineage:
        """The target cannot be loaded: the run goes on from ``step``, before it. What lies between is discarded too."""
        if self.target is None or step >= self.target:
            return self
        last, targets = self.rollbacks[-1], self.ladder.targets
        if last.cause is RollbackCause.DIVERGENCE and targets and targets[-1] == last.target:
            targets = (*targets[:-1], step)
        return replace(
            self,
            rollbacks=(*self.rollbacks[:-1], replace(last, target=step)),
            known=self.known.rolled_back(step),
            ladder=replace(self.ladder, targets=targets),
        )

    def resolved(self, skips: Sequence[Skip]) -> Lineage:
        """A worker has found out which data all of :attr:`unresolved` are."""
        if not skips or len(skips) != len(self.unresolved):
            return self
        found = iter(skips)
        rollbacks = (
            replace(back, skipped=next(found)) if back.skip is not None and back.skipped is None else back
            for back in self.rollbacks
        )
        return replace(self, rollbacks=tuple(rollbacks))

    def without_unresolved(self) -> Lineage:
        """A person wants what no worker has left out yet not to be left out."""
        rollbacks = (back if back.skipped is not None else replace(back, skip=None) for back in self.rollbacks)
        return replace(self, rollbacks=tuple(rollbacks))

    def launched(self) -> Lineage:
        """A round has begun from the target of the last rollback."""
        return replace(self, pending=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "rollbacks": [rollback.to_json() for rollback in self.rollbacks],
            "pending": self.pending,
            "known": self.known.to_json(),
            "ladder": self.ladder.to_json(),
            "forked_from": None if self.forked_from is None else self.forked_from.to_json(),
            "inherited": [skip.to_json() for skip in self.inherited],
            "inherited_lr_factor": self.inherited_lr_factor,
        }

    @classmethod
    def from_json(cls, saved: Any) -> Lineage:
        """What :meth:`to_json` made; raises ValueError if it is anything else, another version's included."""
        try:
            if saved["format"] != FORMAT:
                raise ValueError(f"format {saved['format']}, not {FORMAT}")
            return cls(
                tuple(map(Rollback.from_json, saved["rollbacks"])),
                bool(saved["pending"]),
                KnownGood.from_json(saved["known"]),
                LadderState.from_json(saved["ladder"]),
                None if saved["forked_from"] is None else Fork.from_json(saved["forked_from"]),
                tuple(map(Skip.from_json, saved["inherited"])),
                float(saved["inherited_lr_factor"]),
            )
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"not a lineage: {error!r}") from error
