"""What an incident cost, from a journal and metrics written by hand."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry
from resilient.report.incidents import incident_table, price


def steps(*pairs: tuple[float, int]) -> list[Entry]:
    return [Entry(0, 0, Metrics(step, time, {"loss": 1.0})) for time, step in pairs]


def incident(number: int, time: float, step: int, kind: str = "killed") -> dict[str, Any]:
    failure = {"failure_class": kind, "signature": "SIGKILL"}
    return {
        "name": "RecordIncident",
        "time": time,
        "data": {"incident": {"number": number, "step": step, "failure": failure}},
    }


def launch(time: float, step: int | None, source: str | None) -> dict[str, Any]:
    return {"name": "LaunchRound", "time": time, "data": {"round": 1, "step": step, "source": source}}


def test_a_kill_that_loses_no_step_costs_the_pause_less_one_step() -> None:
    metrics = steps((1, 1), (2, 2), (3, 3), (4.5, 4), (5.5, 5))
    (report,) = price([launch(0, None, None), incident(1, 3.1, 3), launch(3.2, 3, "memory")], metrics)
    assert (report.step, report.resumed_from, report.source, report.steps_repeated) == (3, 3, "memory", 0)
    assert report.seconds_lost == 0.5


def test_repeated_steps_are_lost_time() -> None:
    metrics = steps((1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 4), (7, 5), (8, 6))
    (report,) = price([incident(1, 3.1, 3), launch(3.2, 1, "local")], metrics)
    assert report.steps_repeated == 2
    assert report.seconds_lost == 2.0


def test_two_incidents_in_one_gap_share_it() -> None:
    metrics = steps((1, 1), (2, 2), (10, 3), (11, 4))
    journal = [incident(1, 3, 2, "preemption"), incident(2, 6, 2, "bad snapshot"), launch(7, 2, "local")]
    first, second = price(journal, metrics)
    assert first.resumed_from is None
    assert first.seconds_lost == 4.0  # from step 2 to the second incident
    assert second.seconds_lost == 3.0  # from there to step 3, less a step
    assert first.seconds_lost + second.seconds_lost == 7.0


def test_an_incident_that_ended_the_run_has_no_price() -> None:
    (report,) = price([incident(1, 3, 2)], steps((1, 1), (2, 2)))
    assert report.seconds_lost is None
    assert report.resumed_from is None


def test_table_shows_every_incident() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    reports = price([incident(1, 3.1, 3), launch(3.2, 3, "memory")], steps((1, 1), (2, 2), (3, 3), (4.5, 4)))
    console.print(incident_table(reports))
    text = console.export_text()
    assert "killed: SIGKILL" in text
    assert "step 3 (memory)" in text


def test_script_that_resumes_from_its_own_checkpoint_has_not_begun_anew() -> None:
    own = {"kind": "note", "name": "own checkpoint", "time": 3.3, "step": 2, "source": "its own checkpoint out/c2.pt"}
    journal = [launch(0, None, None), incident(1, 3.1, 3), launch(3.2, None, None), own]
    (report,) = price(journal, steps((1, 1), (2, 2), (3, 3), (4, 4)))
    assert (report.resumed_from, report.source, report.steps_repeated) == (2, "its own checkpoint out/c2.pt", 1)
