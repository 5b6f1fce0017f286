"""The response to divergences, as histories of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient.errors import ConfigurationError
from resilient.policy.divergence import Divergence, DivergenceKind, DivergenceSettings, LadderSettings
from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.divergence.ladder import (
    GiveUp,
    LadderState,
    Response,
    RollBack,
    advanced,
    respond,
    soundest,
)

SETTINGS = DivergenceSettings()


def with_ladder(**changes: Any) -> DivergenceSettings:
    return DivergenceSettings(ladder=LadderSettings(**changes))


def snapshots(*steps: int, now: int = 1000) -> KnownGood:
    known = KnownGood()
    for step in steps:
        known = known.taken(step, 10)
    return known.advanced(now, 100)


def diverged(onset: int, alarm: int) -> Divergence:
    return Divergence(DivergenceKind.SPIKE, "loss", onset, alarm, alarm + 30, 9.0, 3.0, 0.1)


def run(
    known: KnownGood, *found: Divergence, settings: DivergenceSettings = SETTINGS
) -> tuple[LadderState, list[Response]]:
    """Each divergence in turn; the rollbacks happen."""
    state, responses = LadderState(), []
    for item in found:
        known = known.alarmed(item.onset_step, settings.margin)
        state, response = respond(settings, state, known, item)
        responses.append(response)
        if isinstance(response, RollBack):
            known = known.rolled_back(response.target)
    return state, responses


def rollbacks(responses: list[Response]) -> list[tuple[int, tuple[int, int] | None, float]]:
    return [(item.target, item.skip, item.lr_factor) for item in responses if isinstance(item, RollBack)]


def test_first_to_the_newest_good_one_before_the_onset_skipping_to_past_the_alarm() -> None:
    _, responses = run(snapshots(600, 700, 800), diverged(805, 809))
    assert rollbacks(responses) == [(700, (701, 819), 1.0)]
    assert "spike of loss since step 805" in responses[0].reason


def test_a_snapshot_just_at_the_margin_is_good_enough() -> None:
    assert rollbacks(run(snapshots(700, 795), diverged(805, 809))[1])[0][0] == 795


def test_each_recurrence_goes_deeper_then_lowers_the_learning_rate_then_gives_up() -> None:
    state, responses = run(snapshots(400, 500, 600, 700), *[diverged(720, 723)] * 5)
    assert rollbacks(responses) == [
        (700, (701, 733), 1.0),
        (600, (601, 733), 1.0),
        (500, (501, 733), 0.5),
        (400, (401, 733), 0.25),
    ]
    assert isinstance(responses[4], GiveUp)
    assert "4 rollbacks did not help" in responses[4].reason
    assert state.rollbacks == 4


def test_what_goes_wrong_again_at_once_is_the_data_and_more_of_it_is_left_out() -> None:
    found = [diverged(720, 723), diverged(701, 702), diverged(701, 702), diverged(720, 723)]
    _, responses = run(snapshots(400, 500, 600, 700), *found)
    assert rollbacks(responses) == [
        (700, (701, 733), 1.0),
        (700, (701, 766), 1.0),  # 33 steps' data are left out already, and now 66 more
        (600, (601, 712), 0.5),
        (500, (501, 733), 0.25),
    ]
    assert "once more, leaving out more" in responses[1].reason


def test_without_leaving_out_data_the_same_snapshot_would_lead_to_the_same() -> None:
    found = [diverged(720, 723), diverged(701, 702)]
    _, responses = run(snapshots(600, 700), *found, settings=with_ladder(skip=False))
    assert [item[0] for item in rollbacks(responses)] == [700, 600]


def test_where_there_is_none_before_it_the_last_target_is_tried_again() -> None:
    _, responses = run(snapshots(700), *[diverged(720, 723)] * 2)
    assert [item[0] for item in rollbacks(responses)] == [700, 700]
    assert "once more" in responses[1].reason


def test_an_unproven_snapshot_is_better_than_none() -> None:
    _, responses = run(snapshots(700, now=720), diverged(720, 723))
    assert rollbacks(responses)[0][0] == 700
    assert "probation was not over" in responses[0].reason


def test_without_any_snapshot_older_than_the_onset_the_run_stops() -> None:
    _, responses = run(snapshots(700), diverged(705, 708))
    assert responses == [GiveUp("spike of loss since step 705; no snapshot is older than its onset by 10 steps")]


def test_a_young_run_begins_anew_where_no_snapshot_is_sound_and_once_more_if_need_be() -> None:
    state, responses = run(snapshots(300), *[diverged(305, 308)] * 3, settings=with_ladder(restart_within=305))
    assert rollbacks(responses) == [(0, (1, 318), 1.0), (0, (1, 318), 1.0), (0, (1, 318), 0.5)]
    assert "no older snapshot is sound" in responses[0].reason
    assert "once more" in responses[1].reason
    assert state.targets == (0, 0, 0)


def test_a_sound_snapshot_comes_before_the_beginning_and_that_before_the_same_once_more() -> None:
    _, responses = run(snapshots(200, 280), *[diverged(305, 308)] * 3, settings=with_ladder(restart_within=305))
    assert [item[0] for item in rollbacks(responses)] == [280, 200, 0]


@pytest.mark.parametrize(("onset", "within"), [(305, 304), (0, 0), (1, 0)])
def test_an_older_run_does_not_begin_anew_nor_one_that_must_not(onset: int, within: int) -> None:
    _, responses = run(snapshots(300), diverged(onset, 308), settings=with_ladder(restart_within=within))
    assert isinstance(responses[0], GiveUp)


def test_a_run_that_is_given_up_stands_best_on_the_newest_sound_snapshot_tried_or_not() -> None:
    found = diverged(720, 723)
    assert soundest(SETTINGS, snapshots(600, 700, 715).alarmed(720, 10), found) == 700
    assert soundest(SETTINGS, snapshots(715).alarmed(720, 10), found) is None


def test_a_divergence_long_after_begins_a_new_episode_with_the_learning_rate_as_it_is() -> None:
    known = snapshots(500, 600, 700)
    state, _ = run(known, *[diverged(720, 723)] * 3)
    assert state.lr_factor == 0.5
    state, response = respond(SETTINGS, state, snapshots(500, 800, now=2000), diverged(900, 905))
    assert isinstance(response, RollBack)
    assert (response.target, response.lr_factor) == (800, 0.5)
    assert "attempt 1 of 4" in response.reason
    assert state.rollbacks == 4


def test_an_episode_ends_past_the_verdict_and_the_probation_and_not_before() -> None:
    state, _ = run(snapshots(700), diverged(720, 723))
    assert advanced(state, 853).targets == (700,)
    assert advanced(state, 854) == LadderState(skipped_to=733, rollbacks=1)


def test_what_takes_longer_to_be_certain_of_than_the_probation_goes_up_the_ladder_when_it_recurs() -> None:
    slow = Divergence(DivergenceKind.DRIFT, "loss", 720, 730, 900, 9.0, 3.0, 0.1)
    state, responses, known = LadderState(), [], snapshots(500, 600, 700)
    for _ in range(3):
        state, response = respond(SETTINGS, advanced(state, slow.step - 1), known, slow)
        responses.append(response)
    assert [(target, factor) for target, _, factor in rollbacks(responses)] == [(700, 1.0), (600, 1.0), (500, 0.5)]


def test_the_budget_of_the_run_is_not_given_back() -> None:
    settings = with_ladder(budget=2, probation=10)
    found = [diverged(720, 723), diverged(850, 853), diverged(990, 993)]
    state, known = LadderState(), snapshots(500, 600, 700)
    for item in found[:2]:
        state, response = respond(settings, state, known, item)
        assert isinstance(response, RollBack)
    state, response = respond(settings, state, known, found[2])
    assert isinstance(response, GiveUp)
    assert "budget of 2" in response.reason


def test_data_may_be_repeated_instead_of_skipped() -> None:
    state, responses = run(snapshots(700), diverged(720, 723), settings=with_ladder(skip=False))
    assert rollbacks(responses) == [(700, None, 1.0)]
    assert state.skipped_to == 0


def test_no_attempts_means_to_stop_at_once() -> None:
    assert isinstance(run(snapshots(700), diverged(720, 723), settings=with_ladder(attempts=0))[1][0], GiveUp)


def test_the_state_goes_through_json() -> None:
    state, _ = run(snapshots(400, 500, 600, 700), *[diverged(720, 723)] * 3)
    assert LadderState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert LadderState.from_json(LadderState().to_json()) == LadderState()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", -1),
        ("budget", -1),
        ("cut_from", 0),
        ("probation", -1),
        ("restart_within", -1),
        ("lr_factor", 0.0),
        ("lr_factor", 1.1),
    ],
)
def test_a_bad_setting_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"divergence\.ladder\.{field}"):
        with_ladder(**{field: value})
