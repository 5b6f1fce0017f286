"""When to relaunch, when to give up and how long to wait: small composable callables, in tenacity's manner.

A stop rule reads the :class:`History` and returns a :class:`Verdict` or None. Rules are joined with ``|``; the first
one that objects wins. Preemptions never enter the history: they are nobody's fault and cost no budget. (A SIGTERM to a
worker alone, or a node that is lost, enters it when the round made no progress, or it would be relaunched for ever.)
How long a relaunch waits is in :mod:`resilient.policy.waits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resilient.errors import ExitCode
from resilient.policy.failed_rounds import FailedRound, History
from resilient.policy.failures import FailureClass
from resilient.policy.restart_settings import RestartSettings
from resilient.policy.treatments import CRASH_LOOP_EXITS, treatment

__all__ = [
    "NOBODYS_FAULT",
    "FailedRound",
    "History",
    "RestartSettings",
    "StopRule",
    "Verdict",
    "stop_after_failures",
    "stop_on_crash_loop",
    "stop_on_incurable",
    "stop_on_intensity",
    "stop_per_class",
    "stop_rule",
]

NOBODYS_FAULT = frozenset({FailureClass.PREEMPTION, FailureClass.NODE_LOST})
"""What says nothing about the program, and is charged to no budget where there was progress."""


@dataclass(frozen=True)
class Verdict:
    """The run stops."""

    exit_code: ExitCode
    reason: str


@dataclass(frozen=True)
class StopRule:
    """A named rule over the history that can be joined with others by ``|``."""

    judge: Callable[[History], Verdict | None] = field(repr=False)
    name: str = ""

    def __call__(self, history: History) -> Verdict | None:
        return self.judge(history)

    def __or__(self, other: StopRule) -> StopRule:
        return StopRule(lambda history: self(history) or other(history), f"{self.name} | {other.name}")


def stop_on_incurable(but: Mapping[FailureClass, int] | None = None) -> StopRule:
    """What a relaunch cannot cure, each class after as many failures as its treatment says.

    :param but: classes with a budget of their own, which are left to :func:`stop_per_class`.
    """

    def judge(history: History) -> Verdict | None:
        last = history.rounds[-1]
        failure_class = last.failure.failure_class
        cure = treatment(failure_class)
        if cure.failures is None or failure_class in (but or {}):
            return None
        counted = [
            failed
            for failed in history.since_progress()
            if failed.failure.failure_class is failure_class
            and (cure.after_progress or not failed.progressed)
            and (not cure.same_step or failed.step == last.step)
            and (not cure.same_rank or failed.rank == last.rank)
        ]
        if len(counted) < cure.failures:
            return None
        return Verdict(cure.exit_code, f"{last.failure.headline} ({cure.why})")

    return StopRule(judge, "incurable")


def stop_per_class(budgets: Mapping[FailureClass, int]) -> StopRule:
    """So many failures of one class without progress, as the user has set."""

    def judge(history: History) -> Verdict | None:
        last = history.rounds[-1]
        most = budgets.get(last.failure.failure_class)
        stuck = sum(
            failed.failure.failure_class is last.failure.failure_class and not failed.progressed
            for failed in history.since_progress()
        )
        if most is None or stuck < most:
            return None
        name = last.failure.failure_class.name.lower()
        reason = f"{last.failure.headline} ({stuck} without progress, and restarts.per_class.{name} allows no more)"
        return Verdict(treatment(last.failure.failure_class).exit_code, reason)

    return StopRule(judge, f"{len(budgets)} budgets of classes")


def stop_on_crash_loop(rounds: int) -> StopRule:
    """The same signature at the same step in so many rounds in a row, none of which made progress after the first."""

    def judge(history: History) -> Verdict | None:
        tail = history.rounds[-rounds:]
        if len(tail) < rounds or any(failed.progressed for failed in tail[1:]):
            return None
        if len({(failed.failure, failed.step) for failed in tail}) > 1:
            return None
        last = tail[-1]
        if last.failure.failure_class in NOBODYS_FAULT:
            return None  # that it comes at the same step says nothing about the program
        if treatment(last.failure.failure_class).same_rank and len({failed.rank for failed in tail}) > 1:
            return None
        return Verdict(
            CRASH_LOOP_EXITS.get(last.failure.failure_class, ExitCode.CRASH_LOOP),
            f"{last.failure.headline}: {rounds} times in a row after step {last.step}",
        )

    return StopRule(judge, f"crash loop of {rounds}")


def stop_after_failures(count: int) -> StopRule:
    """So many failures in a row without progress, whatever their causes."""

    def judge(history: History) -> Verdict | None:
        stuck = sum(not failed.progressed for failed in history.since_progress())
        if stuck < count:
            return None
        return Verdict(ExitCode.BUDGET_SPENT, f"{stuck} failures in a row without one new step")

    return StopRule(judge, f"{count} failures")


def stop_on_intensity(count: int, seconds: float) -> StopRule:
    """More than ``count`` failures within ``seconds``, progress or not (Erlang/OTP's restart intensity)."""

    def judge(history: History) -> Verdict | None:
        now = history.rounds[-1].at
        recent = sum(now - failed.at <= seconds for failed in history.rounds)
        if recent <= count:
            return None
        return Verdict(ExitCode.BUDGET_SPENT, f"{recent} failures within {seconds:g} s")

    return StopRule(judge, f"more than {count} in {seconds:g} s")


def stop_rule(settings: RestartSettings) -> StopRule:
    """The rules of a run, the most telling diagnosis first."""
    budgets = settings.budgets
    incurable = stop_on_incurable(budgets)
    return (
        (incurable | stop_per_class(budgets) if budgets else incurable)
        | stop_on_crash_loop(settings.crash_loop)
        | stop_after_failures(settings.max_failures)
        | stop_on_intensity(settings.intensity, settings.intensity_seconds)
    )
