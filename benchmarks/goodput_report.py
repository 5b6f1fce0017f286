"""The goodput benchmark's table: medians over rounds, and each contestant beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.goodput_account import Outcome
from benchmarks.goodput_checks import Ledger
from benchmarks.goodput_contestants import RESILIENT


@dataclass
class Figures:
    """All that one invocation measured, by contestant.

    :param lost: who did not get to the end, and the last words.
    :param problems: whatever should not have happened.
    """

    steps: int
    peaceful: dict[str, list[Outcome]] = field(default_factory=dict)
    faulted: dict[str, list[Outcome]] = field(default_factory=dict)
    ledgers: list[Ledger] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One contestant; medians of its rounds, seconds.

    :param peaceful: the wall time without a fault.
    :param called: with the operator coming after the stated time, ``at_once`` with an operator who is there already.
    :param ideal: all steps at the median of its own undisturbed ones, and nothing else.
    :param repeated: steps that were done more than once.
    """

    name: str
    rounds: int
    peaceful: float
    called: float
    at_once: float
    ideal: float
    repeated: float
    interventions: float
    val_loss: float

    @classmethod
    def of(cls, figures: Figures, name: str, operator_seconds: float) -> Row:
        peaceful, faulted = figures.peaceful[name], figures.faulted[name]

        def median(value: Callable[[Outcome], float], outcomes: Sequence[Outcome]) -> float:
            return statistics.median(map(value, outcomes))

        return cls(
            name,
            len(faulted),
            median(lambda one: one.wall, peaceful),
            median(lambda one: one.with_operator(operator_seconds), faulted),
            median(lambda one: one.without_waiting, faulted),
            figures.steps * median(lambda one: one.step_seconds, peaceful),
            median(lambda one: one.recorded - figures.steps, faulted),
            median(lambda one: len(one.interventions), faulted),
            median(lambda one: one.val_loss, faulted),
        )


def rows(figures: Figures, operator_seconds: float) -> list[Row]:
    """Of all that got to the end, with a fault and without."""
    return [Row.of(figures, name, operator_seconds) for name in figures.peaceful if figures.faulted.get(name)]


def report(figures: Figures, operator_seconds: float) -> Iterator[str]:
    """The lines to print."""
    found = rows(figures, operator_seconds)
    own = next((row for row in found if row.name == RESILIENT), None)
    yield f"seconds to step {figures.steps}; medians; × is the ratio to {RESILIENT}"
    yield (
        f"{'':12} rounds  no fault    ideal   operator after {operator_seconds:g} s      operator at once   "
        "repeated  called  final loss"
    )
    for row in found:
        walls = "".join(_wall(row.ideal, value, getattr(own, key, 0.0)) for key, value in _walls(row).items())
        yield (
            f"{row.name:12} {row.rounds:6} {row.peaceful:9.1f} {row.ideal:8.1f}  {walls}"
            f" {row.repeated:10.0f} {row.interventions:7.0f} {row.val_loss:11.4f}"
        )
    yield "in brackets goodput: the ideal's share of the wall time"
    if RESILIENT in figures.peaceful:
        yield f"final loss of a run without a fault: {figures.peaceful[RESILIENT][0].val_loss:.4f}"
    for name, outcomes in figures.faulted.items():
        for number, outcome in enumerate(outcomes, 1):
            said = ", ".join(f"{one.what} after {one.waited:.1f} s" for one in outcome.interventions)
            yield f"{name}, round {number}: the operator {said or 'was not called'}"
    for ledger in figures.ledgers:
        yield (
            f"resilient report: goodput {100 * ledger.goodput:.1f} % of {ledger.total:.1f} s, {ledger.reported:.2f} s "
            f"of steps that count; by the record of steps {ledger.recorded:.2f} s, "
            f"{100 * ledger.recorded / ledger.wall:.1f} % of {ledger.wall:.1f} s"
        )
    yield from (f"NOT FINISHED: {lost}" for lost in figures.lost)
    yield from (f"PROBLEM: {problem}" for problem in figures.problems)


def _walls(row: Row) -> dict[str, float]:
    return {"called": row.called, "at_once": row.at_once}


def _wall(ideal: float, value: float, own: float) -> str:
    ratio = f"{value / own:.1f}×" if own else ""
    return f" {value:7.1f} {ratio:>5} [{100 * ideal / value:3.0f} %]"


def as_json(figures: Figures) -> dict[str, Any]:
    """Everything but the records."""

    def one(outcome: Outcome) -> dict[str, Any]:
        kept = {key: value for key, value in vars(outcome).items() if key != "lines"}
        interventions = [{"what": item.what, "waited": item.waited} for item in outcome.interventions]
        return {**kept, "interventions": interventions, "received": [kind.value for kind in outcome.received]}

    return {
        "peaceful": {name: list(map(one, outcomes)) for name, outcomes in figures.peaceful.items()},
        "faulted": {name: list(map(one, outcomes)) for name, outcomes in figures.faulted.items()},
        "ledgers": [vars(ledger) for ledger in figures.ledgers],
        "lost": figures.lost,
        "problems": figures.problems,
    }
