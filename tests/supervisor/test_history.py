"""Losses of memory and hours of work, read from a journal."""

from __future__ import annotations

from typing import Any

from resilient.supervisor.history import RunHistory, read_history


def entry(time: float, name: str, **data: Any) -> dict[str, Any]:
    return {"time": time, "name": name, "data": data}


def life(start: float, source: str | None, *, seconds: float = 100.0, end: str = "") -> list[dict[str, Any]]:
    """A supervisor from its start to its end: in good order, too late, or killed."""
    entries = [entry(start, "RunOpened"), entry(start + 1, "LaunchRound", source=source)]
    last = start + seconds
    if not end:
        return [*entries, entry(last, "Persisted")]
    return [*entries, entry(last, "FlushEnded", late=end == "late"), entry(last, "EndRun")]


def losses(*lives: list[dict[str, Any]]) -> int:
    return read_history([entry for one in lives for entry in one]).losses


def test_a_new_run_has_no_history() -> None:
    assert read_history([]) == RunHistory()
    assert read_history([{"time": 5.0}, {}]) == RunHistory(up=5.0)


def test_up_is_the_time_of_supervisors_and_not_the_time_between_them() -> None:
    history = read_history([*life(1000, None, end="ended"), *life(9000, "local", end="ended")])
    assert history.up == 200.0
    assert history.losses == 0


def test_a_killed_supervisor_whose_memory_is_found_has_lost_nothing() -> None:
    assert losses(life(0, None), life(1000, "memory")) == 0
    assert losses(life(0, None), life(1000, "peer")) == 0, "another node remembered it"


def test_a_machine_that_is_lost_is_a_loss_wherever_the_run_goes_on_from() -> None:
    assert losses(life(0, None), life(1000, "local")) == 1
    assert losses(life(0, None), life(1000, None)) == 1
    assert losses(life(0, None), life(1000, "local"), life(2000, "local"), life(3000, "memory")) == 2


def test_what_a_rollback_was_to_discard_is_no_loss() -> None:
    begun = {"time": 1000.0, "name": "RunOpened", "data": {"lineage": {"pending": True}}}
    assert losses(life(0, None), [begun, entry(1001, "LaunchRound", source="local")]) == 0
    begun = {"time": 1000.0, "name": "RunOpened", "data": {"lineage": {"pending": False}}}
    assert losses(life(0, None), [begun, entry(1001, "LaunchRound", source="local")]) == 1


def test_only_the_first_round_of_a_supervisor_tells() -> None:
    rejected = [*life(1000, "memory"), entry(1200, "LaunchRound", source="local")]
    assert losses(life(0, None), rejected) == 0


def test_a_preemption_that_came_too_late_is_a_loss_unless_it_goes_on_where_it_was() -> None:
    assert losses(life(0, None, end="late"), life(1000, "local")) == 1
    assert losses(life(0, None, end="late"), life(1000, "memory")) == 0
    assert losses(life(0, None, end="ended"), life(1000, "local")) == 0


def test_incidents_are_counted_and_the_last_restore_is_remembered() -> None:
    entries = [entry(1, "RecordIncident"), entry(2, "Restored", seconds=3.5), entry(3, "RecordIncident")]
    history = read_history(entries)
    assert (history.incidents, history.restore) == (2, 3.5)


def test_a_round_counts_from_when_it_was_decided_on() -> None:
    entries = [entry(0, "LaunchRound", source=None, round=0), entry(1, "LaunchRound", source="memory", round=1)]
    assert read_history(entries).last_round == 1
    assert read_history([]).last_round == -1


def test_the_latest_durations_of_phases_are_what_is_known() -> None:
    notes = [
        {"time": 1.0, "name": "phase durations", "durations": {"step": 0.5}},
        {"time": 2.0, "name": "phase durations", "durations": {"step": 0.25, "eval": 9, "odd": "?"}},
    ]
    assert read_history(notes).durations == {"step": 0.25, "eval": 9.0}
    assert read_history([{"time": 1.0, "name": "phase durations", "durations": None}]).durations == {}
