"""What makes the goodput benchmark's exit code 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.goodput_account import Outcome, final_losses, productive
from benchmarks.goodput_trace import Fault
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths
from resilient.report.account import read_account
from resilient.report.buckets import Bucket
from resilient.snapshot.compare import first_difference

_COMPARED = ("model", "optimizer", "scheduler", "position")
_STEPS = frozenset({Bucket.STEPS, Bucket.DATA, Bucket.STALL})
"""What a record of steps cannot tell apart."""
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Ledger:
    """What ``resilient report`` and the record of steps say of the same run.

    :param goodput: as the report says it.
    :param reported: seconds of steps that count, waits for data and snapshots included, by the report …
    :param recorded: … and by the record.
    :param total: of the run in seconds, by the report; ``wall`` by the benchmark.
    """

    goodput: float
    reported: float
    recorded: float
    total: float
    wall: float

    @classmethod
    def of(cls, paths: RunPaths, outcome: Outcome) -> Ledger:
        ledger = read_account(paths).ledger
        spent = sum(amount for bucket, amount in ledger.buckets.items() if bucket in _STEPS)
        return cls(ledger.goodput, spent / 1e6, productive(outcome.lines), ledger.total / 1e6, outcome.wall)

    def problem(self) -> str | None:
        if abs(self.reported / self.recorded - 1) <= _TOLERANCE:
            return None
        return f"resilient report has {self.reported:.2f} s of steps, the record of them {self.recorded:.2f} s"


def of_outcome(outcome: Outcome, faults: Sequence[Fault]) -> Iterator[str]:
    """It got every fault, and left nothing behind."""
    wanted = Counter(fault.kind for fault in faults)
    if Counter(outcome.received) != wanted:
        yield f"{outcome.contestant} received {_counted(outcome.received)}, not {_counted(list(wanted.elements()))}"
    yield from (f"{outcome.contestant} left behind {left}" for left in outcome.left_behind)


def _counted(kinds: Sequence[object]) -> str:
    return ", ".join(f"{count} {getattr(kind, 'value', kind)}" for kind, count in Counter(kinds).items()) or "nothing"


def same_job(reference: Outcome, other: Outcome) -> Iterator[str]:
    """Without a fault, all do the same: every loss is equal in every bit."""
    one, two = final_losses(reference.lines), final_losses(other.lines)
    differing = sorted(step for step in one.keys() | two.keys() if one.get(step) != two.get(step))
    if differing:
        yield (
            f"{other.contestant} does another job than {reference.contestant}: {len(differing)} losses differ, "
            f"first at step {differing[0]}"
        )


def same_end(peaceful: tuple[Outcome, RunPaths], faulted: tuple[Outcome, RunPaths], steps: int) -> Iterator[str]:
    """Ours ends as if nothing had been: losses, final state and what it is worth are equal in every bit."""
    one, two = (final_losses(outcome.lines) for outcome, _ in (peaceful, faulted))
    differing = sorted(step for step in one.keys() | two.keys() if one.get(step) != two.get(step))
    if differing:
        yield f"resilient: {len(differing)} losses differ from the uninterrupted run's, first at step {differing[0]}"
    images = [(paths.snapshot(steps) / image_name(0)).read_bytes() for _, paths in (peaceful, faulted)]
    if state := first_difference(images[0], images[1], only=_COMPARED):
        yield f"resilient: the final state differs from the uninterrupted run's: {state}"
    if peaceful[0].val_loss != faulted[0].val_loss:
        yield "resilient: the final loss differs from the uninterrupted run's"
