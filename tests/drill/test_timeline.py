"""What followed a fault, from crafted logs."""

from __future__ import annotations

from typing import Any

from resilient.drill.timeline import Timeline, read_timeline

STEPS = [(1.0, 1), (2.0, 2), (3.0, 3)]


def entry(time: float, name: str, data: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"time": time, "name": name, "data": data, **fields}


def incident(time: float, failure_class: str, signature: str) -> dict[str, Any]:
    failure = {"failure_class": failure_class, "signature": signature}
    return entry(time, "RecordIncident", {"incident": {"number": 1, "failure": failure}})


BEGINNING = [entry(0.0, "LaunchRound", {"round": 0, "step": None, "source": None}), entry(0.2, "worker launched")]


def test_killed_and_back_from_memory_with_one_step_repeated() -> None:
    journal = [
        *BEGINNING,
        entry(3.6, "worker exited", rank=0, code=-9, step=3),
        entry(3.7, "WorkerExited", {"rank": 0, "failure": {"failure_class": "killed"}}),
        incident(3.8, "killed", "SIGKILL"),
        entry(4.0, "LaunchRound", {"round": 1, "step": 2, "source": "memory"}),
        entry(4.5, "worker launched"),
    ]
    assert read_timeline(journal, [*STEPS, (5.0, 3), (6.0, 4)], 3.5) == Timeline(
        noticed=0.2,
        noticed_as="killed: SIGKILL",
        launched=1.0,
        recovered=2.5,
        resumed_from="step 2 (memory)",
        repeated=1,
    )


def test_what_nobody_notices() -> None:
    journal = [*BEGINNING, entry(6.0, "worker exited", rank=0, code=0, step=4), entry(6.1, "WorkerExited", {"rank": 0})]
    assert read_timeline(journal, [*STEPS, (4.0, 4)], 3.5) == Timeline()


def test_what_was_noticed_before_the_fault_is_something_else() -> None:
    journal = [*BEGINNING, incident(3.0, "killed", "SIGKILL"), *BEGINNING]
    assert read_timeline(journal, STEPS, 3.5).noticed is None


def test_a_full_disk_is_noticed_without_a_new_round() -> None:
    journal = [*BEGINNING, entry(4.0, "PersistFailed", {"step": 3, "problem": "the disk is full"})]
    assert read_timeline(journal, STEPS, 3.5) == Timeline(0.5, "the disk is full")


def test_two_rounds_are_counted_once_each() -> None:
    journal = [
        *BEGINNING,
        entry(3.6, "worker exited", rank=0, code=-9, step=3),
        incident(3.6, "killed", "SIGKILL"),
        entry(4.0, "LaunchRound", {"round": 1, "step": 1, "source": "local"}),
        entry(5.5, "worker exited", rank=0, code=1, step=2),
        incident(5.6, "bad snapshot", "mismatch"),
        entry(6.0, "LaunchRound", {"round": 2, "step": None, "source": None}),
        entry(6.1, "worker launched"),
    ]
    found = read_timeline(journal, [*STEPS, (5.0, 2), (7.0, 1), (8.0, 2), (9.0, 3), (10.0, 4)], 3.5)
    assert found.repeated == 2 + 2
    assert found.noticed_as == "killed: SIGKILL, bad snapshot: mismatch"
    assert found.recovered == 6.5
    assert found.resumed_from == "step 1 (local)"


def test_a_new_supervisor_that_finds_a_killed_one_has_noticed() -> None:
    journal = [*BEGINNING, entry(4.0, "RunOpened", {"takeover": False}), entry(5.0, "RunOpened", {"takeover": True})]
    found = read_timeline(journal, STEPS, 3.5)
    assert (found.noticed, found.noticed_as) == (1.5, "RunOpened")


def test_from_the_beginning_and_never_further_than_before() -> None:
    journal = [
        *BEGINNING,
        incident(3.6, "killed", "SIGKILL"),
        entry(4.0, "LaunchRound", {"round": 1, "step": None, "source": None}),
    ]
    found = read_timeline(journal, [*STEPS, (5.0, 1)], 3.5)
    assert (found.resumed_from, found.repeated, found.launched, found.recovered) == ("the beginning", 3, None, None)
