"""What the stop rules remember: the rounds that failed, and whether the run moved forward between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from resilient.policy.failures import Failure


@dataclass(frozen=True)
class FailedRound:
    """One failure as the rules see it.

    :param furthest: the furthest step that any earlier round reached. A round that only repeats steps has not
        progressed, however many they are; otherwise a bug some steps after a snapshot would be retried for ever.
    :param needed: so many new steps are progress.
    :param lasted: as well as one new step in a round that was up for long enough, as this one was.
    :param rank: whose failure it was.
    """

    failure: Failure
    furthest: int
    step: int
    at: float
    needed: int = 1
    lasted: bool = False
    rank: int | None = None

    @property
    def progressed(self) -> bool:
        return self.step >= self.furthest + (1 if self.lasted else self.needed)

    @property
    def reached(self) -> int:
        return max(self.furthest, self.step)


@dataclass(frozen=True)
class History:
    """The latest failures of the run, oldest first, bounded; those under earlier supervisors among them."""

    LIMIT = 256
    rounds: tuple[FailedRound, ...] = ()

    def add(self, failed: FailedRound) -> History:
        return replace(self, rounds=(*self.rounds, failed)[-self.LIMIT :])

    def since_progress(self) -> tuple[FailedRound, ...]:
        """Failures since the run last moved forward; the round that moved and then failed counts as the first.

        A round that moved and did not fail, because it was preempted, shows in where the next one began.
        """
        tail: list[FailedRound] = []
        for failed in reversed(self.rounds):
            if tail and tail[-1].furthest >= failed.reached + tail[-1].needed:
                break
            tail.append(failed)
            if failed.progressed:
                break
        return tuple(reversed(tail))

    @property
    def stuck(self) -> int:
        """How many failures without progress there have been in a row."""
        return sum(not failed.progressed for failed in self.since_progress())

    @property
    def furthest(self) -> int:
        """The furthest step that any of these rounds reached."""
        return max((failed.reached for failed in self.rounds), default=0)
