"""The live view, of a run of which only the directory is there."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

from rich.console import Console

from resilient.report.account import read_account
from resilient.report.live import Live, as_json, look, spark
from resilient.report.live_text import plain_lines, view
from resilient.report.words import duration, share, size
from tests.report.histories import EPOCH, History
from tests.report.test_ledger import steps


def preempted(root: Path) -> Live:
    history = History().begins(0).launches(1, 0).trains(3, steps(1, 40, 3), 0)
    history.add(30, "Persisted", "note", data={"step": 20, "bytes": 5_000_000, "seconds": 0.5})
    history.add(31, "Uploaded", "note", data={"step": 20, "bytes": 5_000_000, "seconds": 2.5}).incident(
        43, 1, 40, "preemption"
    )
    history.spent(44, 0, 40, attaching=2.5, ready=3, stepped=43)
    history.phase(44, "flushing", "WorkerExited").ends(45, 75)
    paths = history.write(root / "demo")
    status = {"state": "ended", "step": 40, "total": 90, "round": 0, "exit_code": 75, "diagnosis": "Preempted."}
    paths.status.write_text(json.dumps({**status, "from a later release": 1}))
    return look(read_account(paths, EPOCH + 100))


def test_it_says_how_far_the_run_is_and_what_there_is_of_it(tmp_path: Path) -> None:
    live = preempted(tmp_path)
    body = as_json(live)
    assert (body["state"], body["live"], body["exit_code"]) == ("ended with exit code 75", False, 75)
    assert (body["step"], body["total"], body["step_seconds"], body["seconds_left"]) == (40, 90, 1.0, None)
    assert body["value"] == 1 / 40
    tiers = [(found["tier"], found["step"], found["age_seconds"]) for found in body["snapshots"]]
    assert tiers == [("local", 20, 70.0), ("remote", 20, 69.0)]
    assert body["goodput"] == round(40 / 45, 6)


def test_plain_lines_have_no_art_and_the_view_has(tmp_path: Path) -> None:
    live = preempted(tmp_path)
    lines = list(plain_lines(live))
    assert lines[0] == "demo: ended with exit code 75"
    assert "step:       40 of 90 (44 %), round 0" in lines
    assert "remote:     step 20, 69.0 s ago, 5 MB" in lines
    assert lines[-1] == "diagnosis:  Preempted."
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(live))
    shown = console.export_text()
    assert "━" in shown
    assert "incidents  1; latest 1 preemption 57.0 s ago (cost 2.00 s)" in shown


def test_a_spark_line_shows_the_shape_and_what_is_not_finite() -> None:
    assert spark([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert spark([5.0] * 4, 8) == "▁▁▁▁"
    assert spark([1, math.nan, 1, math.inf], 4) == "▁×▁×"
    assert spark([], 8) == ""
    assert len(spark(list(range(1000)), 40)) == 40


def test_durations_sizes_and_shares_are_short() -> None:
    assert [duration(seconds) for seconds in (0, 0.041, 0.41, 12.34, 245, 11_520, 187_200)] == [
        "0 s",
        "41 ms",
        "0.41 s",
        "12.3 s",
        "4 min 05 s",
        "3 h 12 min",
        "2 d 04 h",
    ]
    assert [size(count) for count in (12, 4_220_000, 1.36e9)] == ["12 B", "4.22 MB", "1.36 GB"]
    assert [share(part, 1) for part in (0, 0.0001, 0.123)] == ["–", "< 0.1 %", "12.3 %"]
