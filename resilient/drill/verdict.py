"""Whether a drill went well: a pure judgement over what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from resilient.drill.equality import Equality, Same
from resilient.drill.timeline import Timeline


@dataclass(frozen=True)
class Outcome:
    """What was seen of one drill.

    :param fault: its name.
    :param keeps_state: the run was to be the same afterwards.
    :param injected: what was done, in words; empty if it could not be.
    :param refused: why it could not.
    :param exit_codes: of the supervisor, for each time it was started.
    :param expected: the exit code that the run was to end with.
    :param diagnosis: what the run said at its end.
    :param timed_out: it did not end in the time that it had.
    """

    fault: str
    at: str
    keeps_state: bool = True
    injected: str = ""
    refused: str = ""
    exit_codes: tuple[int, ...] = ()
    expected: int = 0
    diagnosis: str = ""
    timed_out: bool = False
    timeline: Timeline = field(default_factory=Timeline)
    equality: Equality = field(default_factory=lambda: Equality(Same.UNKNOWN, "it was not compared"))

    @property
    def finished(self) -> bool:
        """For good, as it was to."""
        return self.exit_codes[-1:] == (self.expected,)


@dataclass(frozen=True)
class Verdict:
    """``passed`` needs no reason; otherwise it is the first that applies."""

    passed: bool
    reason: str = ""

    def __str__(self) -> str:
        return "passed" if self.passed else self.reason


def judge(outcome: Outcome) -> Verdict:
    """A drill has passed when the fault happened, the run was finished all the same, and nothing shows that it did.

    What changes the state for good, as a NaN does, has to be noticed instead.
    """
    if not outcome.injected:
        said = f" ({outcome.diagnosis})" if outcome.diagnosis else ""
        return Verdict(passed=False, reason=f"NOT INJECTED: {outcome.refused}{said}")
    if outcome.timed_out:
        return Verdict(passed=False, reason="FAILED: the run did not end in time")
    if not outcome.keeps_state and outcome.timeline.noticed is None:
        return Verdict(passed=False, reason="NOT NOTICED: the run went on with it")
    if not outcome.finished:
        return Verdict(passed=False, reason=f"FAILED: exit code {outcome.exit_codes[-1]}: {outcome.diagnosis}")
    if not outcome.keeps_state or outcome.equality.same is Same.YES:
        return Verdict(passed=True)
    if outcome.equality.same is Same.NO:
        return Verdict(passed=False, reason=f"FAILED: {outcome.equality.text}")
    return Verdict(passed=False, reason=f"NOT PROVEN: recovered, but {outcome.equality.text}")


def all_passed(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and all(judge(outcome).passed for outcome in outcomes)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """With stable keys."""
    verdict = judge(outcome)
    body = asdict(outcome)
    equality = body.pop("equality")
    return {
        **body,
        "same": outcome.equality.same.value.lower(),
        "compared": equality["text"],
        "passed": verdict.passed,
        "reason": verdict.reason,
    }
