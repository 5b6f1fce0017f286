"""The divergence sensor: the same judgement however the run is interrupted."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.policy.divergence import (
    Divergence,
    DivergenceKind,
    DivergenceSettings,
    MetricSettings,
    MonitorState,
    SpikeSettings,
)
from resilient.policy.lineage import Lineage, Rollback
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import BATCH_HASH, PHASE_CHANGE, Entry, MetricsLog, last_entries
from resilient.protocol.paths import RunPaths
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.declared import declared
from resilient.supervisor.detector_history import detector_at, of_lineage
from resilient.supervisor.divergence_sensor import DivergenceSensor, JudgedMetrics, folded, state_from

SPIKE = SpikeSettings(window=16, level_window=4, history=8, hits=2, of=3, patience=5)
SETTINGS = DivergenceSettings(warmup_steps=0, metrics={"loss": MetricSettings(spike=SPIKE)})


def entry(step: int, loss: float, *, rank: int = 0) -> Entry:
    return Entry(0, rank, Metrics(step, 1.0, {"loss": loss}))


def series(steps: int, seed: int = 0) -> list[Entry]:
    chance = random.Random(seed)
    return [entry(step, 2.0 + 0.1 * chance.random() + (9.0 if step % 70 < 3 else 0.0)) for step in range(1, steps + 1)]


def sensor_from(state: MonitorState | None = None, step: int = 0) -> DivergenceSensor:
    sensor = DivergenceSensor(SETTINGS)
    sensor.resume(step, state or MonitorState())
    return sensor


def fold(entries: Sequence[Entry]) -> MonitorState:
    return folded(SETTINGS, MonitorState(), (item.metrics for item in entries))


def test_the_state_after_any_recent_step_is_what_it_was() -> None:
    entries = series(400)
    sensor = sensor_from()
    sensor.hear(entries)
    for step in (400, 399, 351, 350, 300, 77, 1, 0):
        assert sensor.state_at(step) == fold(entries[:step]), step


def test_what_is_too_long_ago_is_not_made_up() -> None:
    sensor = sensor_from()
    sensor.hear(series(4000))
    assert sensor.state_at(100) is None
    assert sensor.state_at(3900) == fold(series(4000)[:3900])


def test_before_the_first_round_nothing_is_known() -> None:
    sensor = DivergenceSensor(SETTINGS)
    sensor.hear(series(5))
    assert sensor.state_at(5) is None
    assert sensor.take() == []


@pytest.mark.parametrize("cut", [10, 139, 141, 143, 260])
def test_a_round_that_goes_on_from_an_earlier_step_is_judged_as_if_nothing_had_been(cut: int) -> None:
    entries = series(300)
    sensor = sensor_from()
    sensor.hear(entries[: cut + 7])
    state = sensor.state_at(cut)
    assert state is not None
    sensor.resume(cut, MonitorState.from_json(state.to_json()))  # as it comes back from a snapshot
    sensor.take()
    sensor.hear(entries[cut:])
    whole = sensor_from()
    whole.hear(entries)
    assert sensor.state == whole.state
    assert [event for event in sensor.take() if event.findings] == [
        event for event in whole.take() if event.findings and event.step > cut
    ]


def test_a_step_reported_in_parts_belongs_to_one_state() -> None:
    sensor = sensor_from()
    for step in range(1, 121):
        sensor.hear([Entry(0, 0, Metrics(step, 1.0, {"lr": 0.1})), entry(step, 2.0)])
    assert sensor.state_at(50) == sensor_at(50).state


def sensor_at(steps: int) -> DivergenceSensor:
    sensor = sensor_from()
    for step in range(1, steps + 1):
        sensor.hear([Entry(0, 0, Metrics(step, 1.0, {"lr": 0.1})), entry(step, 2.0)])
    return sensor


def test_one_event_says_how_far_it_has_come_and_others_what_was_found() -> None:
    sensor = sensor_from()
    sensor.hear([entry(1, 2.0), entry(2, 2.0)])
    (event,) = sensor.take()
    assert (event.step, event.findings, event.open_onset) == (2, (), None)
    assert sensor.take() == []
    sensor.hear([entry(3, 2.0), entry(4, math.nan), entry(5, math.nan)])
    found, further = sensor.take()
    assert isinstance(found.findings[0], Divergence)
    assert (found.step, found.open_onset) == (4, 4)
    assert (further.step, further.findings, further.open_onset) == (5, (), 4)


def test_other_ranks_and_our_own_names_are_passed_over() -> None:
    sensor = sensor_from()
    sensor.hear([entry(1, math.nan, rank=1), Entry(0, 0, Metrics(1, 1.0, {BATCH_HASH: math.nan}))])
    assert sensor.state == MonitorState()
    assert all(not event.findings for event in sensor.take())


def test_a_phase_change_begins_anew_with_its_step() -> None:
    sensor = sensor_from()
    sensor.hear(series(60))
    sensor.hear([Entry(0, 0, Metrics(61, 1.0, {"loss": 50.0, PHASE_CHANGE: 1.0}))])
    assert sensor.state.since == 61
    assert all(not event.findings for event in sensor.take())


def test_detectors_that_are_off_cost_nothing_and_say_nothing() -> None:
    sensor = DivergenceSensor(replace(SETTINGS, enabled=False))
    sensor.resume(0, MonitorState())
    sensor.hear([entry(1, math.nan)])
    assert sensor.take() == []


def test_the_sensor_hears_what_is_logged_and_the_log_has_it(tmp_path: Path) -> None:
    sensor = sensor_from()
    log = JudgedMetrics(tmp_path / "metrics.jsonl", sensor)
    log.write(iter([entry(1, 2.0)]))
    log.close()
    assert [item.metrics.step for item in last_entries(tmp_path / "metrics.jsonl")] == [1]
    assert [event.step for event in sensor.take()] == [1]


# --- what is said again


def test_a_divergence_that_is_not_over_is_said_again_to_whoever_comes_next() -> None:
    sensor = sensor_from()
    sensor.hear([*series(30), entry(31, math.nan), entry(32, math.nan)])
    fresh = sensor_from(sensor.state, 32)
    (event,) = fresh.take()
    (found,) = event.findings
    assert isinstance(found, Divergence)
    assert (found.kind, found.onset_step, found.alarm_step) == (DivergenceKind.NONFINITE, 31, 31)
    assert event.open_onset == 31


def test_a_lasting_spike_is_said_again_only_once_it_is_a_divergence() -> None:
    spiky = [entry(step, 50.0) for step in range(31, 33)]
    assert declared(SETTINGS, fold([*series(30), *spiky]), 32) == ()
    lasting = [entry(step, 50.0) for step in range(31, 45)]
    (found,) = declared(SETTINGS, fold([*series(30), *lasting]), 44)
    assert (found.kind, found.onset_step) == (DivergenceKind.SPIKE, 31)
    assert found.value == 50.0


def test_nothing_is_said_again_where_nobody_acts_on_it() -> None:
    sensor = DivergenceSensor(replace(SETTINGS, respond=False))
    sensor.resume(32, fold([*series(30), entry(31, math.nan)]))
    assert sensor.take() == []


# --- what a successor finds on the disk


def record(paths: RunPaths, entries: Sequence[Entry]) -> None:
    log = MetricsLog(paths.metrics)
    log.write(entries)
    log.close()


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    made = RunPaths.of(tmp_path, "run")
    made.create()
    return made


def snapshot(paths: RunPaths, step: int, state: MonitorState | None, number: int = 0) -> None:
    said = {} if state is None else {"detector": state.to_json()}
    commit(Storage(), paths.snapshots, Draft("run", step, number, {0: memoryview(b"image")}, divergence=said))


def test_from_the_nearest_snapshot_and_what_the_log_says_since(paths: RunPaths) -> None:
    entries = series(90)
    record(paths, entries)
    snapshot(paths, 40, fold(entries[:40]))
    snapshot(paths, 50, None)  # of a release that did not say
    snapshot(paths, 80, fold(entries[:80]))
    assert detector_at(paths, SETTINGS, Lineage(), 60) == fold(entries[:60])
    assert detector_at(paths, SETTINGS, Lineage(), 20) == fold(entries[:20])
    assert detector_at(paths, SETTINGS, Lineage(), 0) == MonitorState()


def test_steps_that_were_done_again_count_as_they_were_done_last(paths: RunPaths) -> None:
    first, again = series(50), [replace(item, round=1) for item in series(60, seed=7)[30:]]
    record(paths, [*first, *again])
    assert detector_at(paths, SETTINGS, Lineage(), 60) == fold([*first[:30], *again])


def test_what_a_rollback_has_discarded_is_not_heard_again(paths: RunPaths) -> None:
    first = series(50)
    record(paths, [*first, *(replace(item, round=1) for item in series(35, seed=7)[30:])])
    lineage = Lineage().rolled_back(Rollback(30, 50, 0)).launched()
    known = [item.step for item in of_lineage(last_entries(paths.metrics), lineage.holds)]
    assert known == list(range(1, 36))
    snapshot(paths, 45, fold(first[:45]))  # nor what was taken of it
    assert detector_at(paths, SETTINGS, lineage, 45) == fold([*first[:30], *series(35, seed=7)[30:]])


def test_lines_that_are_none_are_passed_over(paths: RunPaths) -> None:
    record(paths, series(3))
    with paths.metrics.open("a") as stream:
        stream.write('\n[]\n{"step": "x"}\n{"step": 4, "rank": 0\n')
    assert len(list(last_entries(paths.metrics))) == 3
    assert list(last_entries(paths.metrics.with_name("none"))) == []


def test_a_state_of_another_release_is_none() -> None:
    assert state_from({"detector": {"format": 99}}) is None
    assert state_from({}) is None
    assert state_from({"detector": fold(series(9)).to_json()}) == fold(series(9))
