"""What counts as a drill that went well."""

from __future__ import annotations

from dataclasses import replace

from resilient.drill.equality import Equality, Same
from resilient.drill.timeline import Timeline
from resilient.drill.verdict import Outcome, all_passed, as_json, judge

GOOD = Outcome(
    "kill",
    "30",
    injected="SIGKILL to rank 0",
    exit_codes=(0,),
    timeline=Timeline(0.1, "killed: SIGKILL", 0.2, 0.3, "step 29 (memory)", 1),
    equality=Equality(Same.YES, "60 reported values and the whole state after step 60"),
)
DAMAGED = replace(GOOD, fault="nan", keeps_state=False, timeline=Timeline())


def reason(outcome: Outcome) -> str:
    verdict = judge(outcome)
    assert not verdict.passed
    assert not all_passed([GOOD, outcome])
    return verdict.reason


def test_finished_and_equal() -> None:
    assert str(judge(GOOD)) == "passed"
    assert all_passed([GOOD, replace(GOOD, exit_codes=(75, 0))])


def test_one_that_nobody_notices_and_that_changes_nothing_is_passed() -> None:
    assert judge(replace(GOOD, timeline=Timeline())).passed


def test_no_drill_at_all_proves_nothing() -> None:
    assert not all_passed([])


def test_different() -> None:
    outcome = replace(GOOD, equality=Equality(Same.NO, "loss differs, first in step 31"))
    assert reason(outcome) == "FAILED: loss differs, first in step 31"


def test_not_comparable_is_not_passed() -> None:
    outcome = replace(GOOD, equality=Equality(Same.UNKNOWN, "nothing is reported"))
    assert reason(outcome) == "NOT PROVEN: recovered, but nothing is reported"


def test_stopped_for_good() -> None:
    outcome = replace(GOOD, exit_codes=(75, 81), diagnosis="the same failure again and again")
    assert reason(outcome) == "FAILED: exit code 81: the same failure again and again"


def test_never_ended() -> None:
    assert "did not end in time" in reason(replace(GOOD, exit_codes=(), timed_out=True))


def test_never_happened() -> None:
    assert reason(replace(GOOD, injected="", refused="it ended before")) == "NOT INJECTED: it ended before"


def test_damage_that_goes_unnoticed_is_no_success_even_where_the_run_finishes() -> None:
    assert reason(DAMAGED).startswith("NOT NOTICED")


def test_damage_that_is_noticed_and_survived_is_one_though_the_losses_are_others() -> None:
    noticed = replace(DAMAGED, timeline=Timeline(0.1, "numeric"), equality=Equality(Same.NO, "loss differs"))
    assert judge(noticed).passed
    assert reason(replace(noticed, exit_codes=(84,), diagnosis="diverged")) == "FAILED: exit code 84: diverged"


def test_json_has_stable_keys() -> None:
    body = as_json(GOOD)
    assert body["same"] == "yes"
    assert body["passed"] is True
    assert body["timeline"]["recovered"] == 0.3
    assert set(body) == {
        "fault", "at", "keeps_state", "injected", "refused", "exit_codes", "expected", "diagnosis", "timed_out",
        "timeline", "same", "compared", "passed", "reason",
    }  # fmt: skip
