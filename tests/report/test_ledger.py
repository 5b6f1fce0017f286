"""The goodput ledger over histories written by hand, and over made-up ones that make no sense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.policy.state import Phase
from resilient.report.buckets import Bucket
from resilient.report.ledger import Ledger, keep_ledger
from resilient.report.tenures import split_tenures
from resilient.report.tracks import Track
from resilient.supervisor.time_notes import BEGAN, ENDED, SPENT
from tests.report.histories import EPOCH, History, assert_whole


def seconds(ledger: Ledger) -> dict[str, float]:
    """What there is in each bucket that has something."""
    assert_whole(ledger)
    return {bucket.value: amount / 1e6 for bucket, amount in ledger.buckets.items() if amount}


def lost(ledger: Ledger, number: int) -> dict[str, float]:
    return {bucket.value: amount / 1e6 for bucket, amount in ledger.costs[number].items() if amount}


def steps(first: int, last: int, begin: float) -> dict[int, float]:
    """One a second."""
    return {step: begin + step - first + 1 for step in range(first, last + 1)}


def started(*, age: float = 0.0) -> History:
    """Ready after three seconds, of which the supervisor took one, the import one and a half."""
    return History().begins(0, age=age).launches(1, 0)


def test_a_run_that_nothing_happens_to() -> None:
    history = started(age=2).trains(3, steps(1, 10, 3), 0)
    history.spent(13.5, 0, 10, attaching=2.75, ready=3, stepped=13, fetching=1.5, stalled=0.5, aside=2)
    history.phase(14, "flushing", "WorkerExited").ends(15, 0, closed=15.5)
    ledger = history.ledger()
    assert seconds(ledger) == {
        "steps": 6.0,
        "evaluation": 2.0,
        "data_wait": 1.5,
        "snapshot_stall": 0.5,
        "launch": 3.0,  # two before its first entry
        "import": 1.75,
        "restore": 0.25,
        "shutdown": 2.5,
    }
    assert ledger.goodput == pytest.approx(8 / 17.5)


def test_steps_that_are_done_again_are_lost_where_they_were_done_first() -> None:
    history = started().trains(3, steps(1, 10, 3), 0)
    history.spent(13.25, 0, 10, attaching=2.5, ready=3, stepped=13)
    history.fails(13.25, 1, 10).launches(14, 1, 6, "memory").trains(15, steps(7, 12, 15), 1)
    history.spent(21, 1, 12, attaching=14.5, ready=15, stepped=21)
    history.phase(21, "flushing", "WorkerExited").ends(21, 0)
    ledger = history.ledger()
    found = seconds(ledger)
    assert found["steps"] == 12.0
    assert found["lost_steps"] == 4.25, "steps 7 to 10, and the one that was cut short"
    assert lost(ledger, 1) == {"lost_steps": 4.25, "launch": 1.25, "restore": 0.5}


def test_what_a_rollback_discards_is_its_own_even_if_it_was_done_again_before() -> None:
    history = started().trains(3, steps(1, 10, 3), 0)
    history.spent(13, 0, 10, attaching=2.5, ready=3, stepped=13)
    history.fails(13, 1, 10).launches(13, 1, 8, "memory").trains(14, steps(9, 12, 14), 1)
    history.spent(18, 1, 12, attaching=13.5, ready=14, stepped=18)
    history.add(18, "SaveLineage", "decision", data={"lineage": {"pending": True}})
    history.add(18, "KillWorkers", "decision", data={"reason": "rollback"}).phase(18.5, "replaying", "WorkerExited")
    history.incident(18.5, 2, 12, "divergence", 1)
    history.phase(20, "choosing", "ReplayEnded").launches(20, 2, 4, "local").trains(21, steps(5, 12, 21), 2)
    history.spent(29, 2, 12, attaching=20.5, ready=21, stepped=29)
    history.phase(29, "flushing", "WorkerExited").ends(29, 0)
    ledger = history.ledger()
    found = seconds(ledger)
    assert found["steps"] == 12.0  # 1 to 4, and 5 to 12
    assert found["lost_steps"] == 2.0  # 9 and 10 in the first round
    assert found["rollback_discarded"] == 8.0  # 5 to 8 of the first round, 9 to 12 of the second
    assert found["replay"] == 1.5
    assert lost(ledger, 2)["rollback_discarded"] == 8.0
    assert lost(ledger, 1)["lost_steps"] == 2.0


def test_of_a_journal_only_what_is_read_is_kept() -> None:
    history = started().add(3, "MetricsJudged", data={"metrics": [1.0] * 100}, after={"phase": {"=": "running"}})
    (tenure,) = split_tenures("node1", history.entries)
    launched = next(line for line in tenure.lines if line.name == "LaunchRound")
    assert launched.data["round"] == 0
    judged = tenure.lines[-1]
    assert (judged.name, judged.phase, judged.body) == ("MetricsJudged", "running", {})


def test_a_hang_costs_from_the_last_step_on() -> None:
    history = started().trains(3, steps(1, 5, 3), 0)
    history.phase(12, "dumping").add(12.5, "KillWorkers", "decision", data={"reason": "hang"}).phase(12.5, "clearing")
    history.spent(13, 0, 5, attaching=2.5, ready=3, stepped=8)
    history.fails(13, 1, 5, "hang").launches(13, 1, 5, "memory").trains(14, steps(6, 6, 14), 1)
    history.spent(15, 1, 6, attaching=13.5, ready=14, stepped=15)
    history.phase(15, "flushing", "WorkerExited").ends(15, 0)
    ledger = history.ledger()
    assert seconds(ledger)["hang_detection"] == 5.0
    assert "lost_steps" not in seconds(ledger)
    assert lost(ledger, 1) == {"hang_detection": 5.0, "launch": 0.5, "restore": 0.5}


def test_between_two_supervisors_a_preempted_run_queues_and_a_stopped_one_is_idle() -> None:
    history = started().trains(3, steps(1, 5, 3), 0).incident(6, 1, 3, "preemption")
    history.phase(6, "stopping", "StopRequested").spent(9, 0, 5, attaching=2.5, ready=3, stepped=8)
    history.phase(9, "flushing", "WorkerExited").ends(9.5, 75)
    history.begins(20).phase(21, "restoring").launches(22, 1, 5, "local").trains(23, steps(6, 8, 23), 1)
    history.spent(26, 1, 8, attaching=22.75, ready=23, stepped=26)
    history.phase(26, "flushing", "WorkerExited").ends(27, 143)
    history.begins(50).launches(50, 2, 8, "local").trains(51, steps(9, 9, 51), 2)
    history.spent(52, 2, 9, attaching=50.75, ready=51, stepped=52)
    history.phase(52, "flushing", "WorkerExited").ends(52, 0)
    ledger = history.ledger()
    found = seconds(ledger)
    assert (found["queue"], found["idle"], found["steps"]) == (10.5, 23.0, 9.0)
    assert lost(ledger, 1) == {"shutdown": 1.5, "queue": 10.5, "launch": 1.0, "restore": 1.25, "import": 0.75}


def test_a_killed_supervisor_was_up_as_long_as_its_workers_reported() -> None:
    history = started().trains(3, steps(1, 20, 3), 0)
    history.begins(40)
    history.entries[-1]["before"] = {}
    history.spent(40, 0, 20, attaching=2.5, ready=3, stepped=23)
    history.incident(40, 1, 20, "supervisor lost").launches(41, 1, 20, "memory").trains(42, steps(21, 21, 42), 1)
    history.spent(43, 1, 21, attaching=41.5, ready=42, stepped=43)
    history.phase(43, "flushing", "WorkerExited").ends(43, 0)
    ledger = history.ledger()
    found = seconds(ledger)
    assert (found["steps"], found["queue"]) == (21.0, 17.0)
    assert lost(ledger, 1)["queue"] == 17.0


def test_of_a_live_run_everything_up_to_now_is_accounted_for() -> None:
    history = started().trains(3, steps(1, 5, 3), 0)
    ledger = history.ledger(now=8.75)
    assert ledger.total == 8_750_000
    assert seconds(ledger)["steps"] == 4.75, "until its boards are written down, from the first step that was seen"


def test_time_is_placed_by_the_monotonic_clock_where_the_wall_clock_is_set_back() -> None:
    history = started().trains(3, steps(1, 5, 3), 0)
    history.spent(9, 0, 5, attaching=2.5, ready=3, stepped=8)
    history.phase(9, "flushing", "WorkerExited").ends(10, 0)
    for entry in history.entries[-4:]:
        entry["time"] -= 3600
    assert history.ledger().total == 10_000_000
    assert seconds(history.ledger())["steps"] == 5.0


def test_another_nodes_journal_adds_what_its_ranks_have_waited_for() -> None:
    history = started().trains(3, steps(1, 5, 3), 0)
    history.spent(9, 0, 5, attaching=2.5, ready=3, stepped=8, fetching=0.5)
    history.phase(9, "flushing", "WorkerExited").ends(10, 0)
    other = History(boot=7000.0).add(0, BEGAN, "note", host="node2", age=0)
    other.spent(9, 0, 5, attaching=2.5, ready=3, stepped=8, fetching=2.0).add(30, ENDED, "note", exit_code=0)
    tenures = split_tenures("node1", history.entries) + split_tenures("node2", other.entries)
    ledger = keep_ledger(tenures, history.tracks)
    assert ledger.total == 10_000_000, "only the supervisor that decides has the run's time"
    assert seconds(ledger)["data_wait"] == 2.0


def test_a_start_that_found_nothing_to_do_is_no_time_of_the_run() -> None:
    history = started().trains(3, steps(1, 5, 3), 0)
    history.spent(9, 0, 5, attaching=2.5, ready=3, stepped=8)
    history.phase(9, "flushing", "WorkerExited").ends(10, 0)
    history.add(500, "strays killed", "note", processes=[1])
    assert history.ledger().total == 10_000_000


_NAMES = (
    BEGAN,
    ENDED,
    SPENT,
    "RunOpened",
    "LaunchRound",
    "worker launched",
    "worker exited",
    "WorkerExited",
    "KillWorkers",
    "SaveLineage",
    "RecordIncident",
    "EndRun",
    "own checkpoint",
    "Tick",
)
_small = st.integers(0, 12)
_moment = st.none() | st.floats(0, 200)


@st.composite
def entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Entries in an order that no supervisor would write them in, with clocks that jump."""
    at, wall, found = draw(st.floats(1, 50)), EPOCH, []
    for name in draw(st.lists(st.sampled_from(_NAMES), max_size=40)):
        passed = draw(st.floats(0, 5))
        at, wall = at + passed, wall + passed + draw(st.sampled_from([0, 0, 0, -30, 4000]))
        phase = draw(st.none() | st.sampled_from([phase.value for phase in Phase]))
        failure = {"failure_class": draw(st.sampled_from(["hang", "killed"])), "signature": "x"}
        incident = {"number": draw(_small), "round": draw(_small), "step": draw(_small), "failure": failure}
        data = {
            "round": draw(_small),
            "step": draw(_small),
            "source": "memory",
            "lineage": {"pending": draw(st.booleans())},
            "failure": draw(st.sampled_from([None, failure])),
            "incident": incident,
            "exit_code": draw(st.sampled_from([0, 75, 84])),
        }
        entry = {"time": wall, "at": at, "name": name, "data": data, "round": draw(_small), "step": draw(_small)}
        entry |= {"attaching": draw(_moment), "ready": draw(_moment), "stepped": draw(_moment), "age": draw(_small)}
        entry |= {"data_": 0, "data": data} if name != SPENT else {"fetching": draw(st.floats(0, 50))}
        entry |= {"stalled": draw(st.floats(0, 50)), "aside": draw(st.floats(0, 50))}
        if phase is not None:
            entry["after"] = {"phase": {"=": phase}}
        found.append(entry)
        if draw(st.integers(0, 9)) == 0:
            at = draw(st.floats(1, 50))  # another boot
    return found


@st.composite
def tracks(draw: st.DrawFn) -> dict[int, Track]:
    found: dict[int, Track] = {}
    for number in draw(st.lists(_small, max_size=4)):
        track = found.setdefault(number, Track())
        for step in draw(st.lists(_small, max_size=8)):
            track.add(step, EPOCH + draw(st.floats(-10, 200)), {"loss": 1.0})
    return found


@settings(max_examples=100)
@given(entries(), entries(), tracks(), st.none() | st.floats(0, 300))
def test_whatever_the_journals_say_every_moment_is_in_one_bucket(
    first: list[dict[str, Any]], second: list[dict[str, Any]], reported: dict[int, Track], now: float | None
) -> None:
    tenures = sorted(split_tenures("a", first) + split_tenures("b", second), key=lambda tenure: tenure.began)
    ledger = keep_ledger(tenures, reported, None if now is None else round((EPOCH + now) * 1e6))
    assert_whole(ledger)
    assert sum(sum(costs.values()) for costs in ledger.costs.values()) <= ledger.total - ledger.buckets[Bucket.STEPS]
