"""When to relaunch, when to give up and how long to wait: small composable callables, in tenacity's manner.

A stop rule reads the :class:`History` and returns a :class:`Verdict` or None. Rules are joined with ``|``; the first
one that objects wins. Preemptions never enter the history: they are nobody's fault and cost no budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from resilient.errors import ConfigurationError, ExitCode
from resilient.policy.failures import Failure, FailureClass


@dataclass(frozen=True)
class RestartSettings:
    """Budgets of a run; the section ``restarts`` of the configuration.

    :param max_failures: failures in a row without any progress between them, whatever their cause.
    :param intensity: at most this many failures …
    :param intensity_seconds: … within this many seconds.
    :param crash_loop: the same failure at the same step, this many times in a row, stops the run.
    :param first_wait: seconds to wait before the relaunch after a second failure without progress; doubled each time.
    :param max_wait: seconds to wait at the most.
    """

    max_failures: int = 10
    intensity: int = 30
    intensity_seconds: float = 600.0
    crash_loop: int = 3
    first_wait: float = 1.0
    max_wait: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_failures", "intensity", "crash_loop"):
            if not 1 <= getattr(self, name) < History.LIMIT:
                raise ConfigurationError(
                    f"restarts.{name} must be at least 1 and below {History.LIMIT}, not {getattr(self, name)}"
                )
        if self.first_wait < 0 or self.max_wait < self.first_wait:
            raise ConfigurationError(
                f"restarts.first_wait ({self.first_wait}) and restarts.max_wait ({self.max_wait}) must be "
                "0 ≤ first_wait ≤ max_wait"
            )


@dataclass(frozen=True)
class FailedRound:
    """One failure as the rules see it.

    :param furthest: the furthest step that any earlier round reached. A round that only repeats steps has not
        progressed, however many they are; otherwise a bug some steps after a snapshot would be retried for ever.
    """

    failure: Failure
    furthest: int
    step: int
    at: float

    @property
    def progressed(self) -> bool:
        return self.step > self.furthest


@dataclass(frozen=True)
class History:
    """The latest failures of this supervisor's life, oldest first, bounded."""

    LIMIT = 256
    rounds: tuple[FailedRound, ...] = ()

    def add(self, failed: FailedRound) -> History:
        return replace(self, rounds=(*self.rounds, failed)[-self.LIMIT :])

    def since_progress(self) -> tuple[FailedRound, ...]:
        """Failures since the run last moved forward; the round that moved and then failed counts as the first."""
        tail: list[FailedRound] = []
        for failed in reversed(self.rounds):
            tail.append(failed)
            if failed.progressed:
                break
        return tuple(reversed(tail))


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


# What a relaunch cannot cure, each with how often it is tried all the same while the run makes no progress.
_TRIES_WITHOUT_PROGRESS = {
    FailureClass.CODE: (1, ExitCode.WORKER_ERROR),
    FailureClass.HOST_OOM: (2, ExitCode.WORKER_ERROR),
    FailureClass.DEVICE_OOM: (2, ExitCode.WORKER_ERROR),
    FailureClass.DISK: (2, ExitCode.DISK_FULL),
}


def stop_on_incurable() -> StopRule:
    """Errors in code or configuration stop at once when the round made no progress; memory errors at the second."""

    def judge(history: History) -> Verdict | None:
        last = history.rounds[-1]
        if last.failure.failure_class not in _TRIES_WITHOUT_PROGRESS:
            return None
        tries, exit_code = _TRIES_WITHOUT_PROGRESS[last.failure.failure_class]
        stuck = [
            failed
            for failed in history.since_progress()
            if not failed.progressed and failed.failure.failure_class is last.failure.failure_class
        ]
        if len(stuck) < tries:
            return None
        return Verdict(exit_code, f"{last.failure.signature} (a relaunch does not cure this)")

    return StopRule(judge, "incurable")


def stop_on_declared() -> StopRule:
    """The script has said, by an exit code of its own, that it must not be started again."""

    def judge(history: History) -> Verdict | None:
        failure = history.rounds[-1].failure
        if failure.failure_class is not FailureClass.DECLARED:
            return None
        return Verdict(ExitCode.WORKER_ERROR, failure.signature)

    return StopRule(judge, "declared")


def stop_on_crash_loop(rounds: int) -> StopRule:
    """The same signature at the same step in so many rounds in a row, none of which made progress after the first."""

    def judge(history: History) -> Verdict | None:
        tail = history.rounds[-rounds:]
        if len(tail) < rounds or any(failed.progressed for failed in tail[1:]):
            return None
        if len({(failed.failure, failed.step) for failed in tail}) > 1:
            return None
        hung = tail[-1].failure.failure_class is FailureClass.HANG
        return Verdict(
            ExitCode.HUNG if hung else ExitCode.CRASH_LOOP,
            f"{tail[-1].failure.signature}: {rounds} times in a row after step {tail[-1].step}",
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
    return (
        stop_on_declared()
        | stop_on_incurable()
        | stop_on_crash_loop(settings.crash_loop)
        | stop_after_failures(settings.max_failures)
        | stop_on_intensity(settings.intensity, settings.intensity_seconds)
    )


def wait_before_relaunch(settings: RestartSettings, history: History) -> float:
    """Seconds to wait: none after a failure that followed progress, then doubling.

    The first failure is nearly always the world's; only when a relaunch did not help is there a reason to wait.
    """
    stuck = sum(not failed.progressed for failed in history.since_progress())
    if stuck <= 1:
        return 0.0
    return min(settings.max_wait, settings.first_wait * 2.0 ** (stuck - 2))
