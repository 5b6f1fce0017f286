"""The last line of the terminal: what it says, and how it gives way to everything else."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.supervisor.console import Console
from resilient.supervisor.progress_line import Pace, Progress


class Screen(io.StringIO):
    """A terminal of one long line after the other, as far as they are there at the end."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        lines = (line.rpartition("\r\x1b[2K")[2] for line in self.getvalue().split("\n"))
        return [re.sub(r"\x1b\[\d*m", "", line) for line in lines]


def test_it_tells_what_matters_and_leaves_out_what_matters_least() -> None:
    progress = Progress("demo", "running", 1234, 20_000, 0.31, ("loss", 2.3456), 2)
    wide = progress.line(120)
    assert wide.startswith("demo  ━")
    assert wide.endswith("1,234/20,000  6 %  0.31 s/step  ETA 1:36:57  loss 2.346  2 incidents")
    assert progress.line(60).endswith("0.31 s/step  ETA 1:36:57")
    assert progress.line(20).startswith("demo")


def test_what_is_not_known_is_not_told() -> None:
    assert Progress("demo", "running", 7, 0).line(80) == "demo  step 7"
    assert Progress("demo", "starting", 0, 0).line(80) == "demo  step 0  starting"
    assert "ETA 12 d 0:53:20" in Progress("demo", "running", 0, 20_800, 50.0).line(80)


@settings(max_examples=100)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e5), st.integers(0, 10**6), st.integers(1, 300))
def test_it_is_never_wider_than_the_terminal(step: int, total: int, pace: float, incidents: int, columns: int) -> None:
    line = Progress("a-run", "restoring", step, total, pace, ("loss", float("nan")), incidents).line(columns)
    assert len(line) < columns
    assert "\n" not in line


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace()
    for second in range(100):
        pace.note(float(second), second if second < 60 else 60 + 4 * (second - 60))
    assert pace.seconds == pytest.approx(0.25)
    pace.note(101.0, 10)  # taken back
    assert pace.seconds == 0.0
    pace.note(103.0, 11)
    assert pace.seconds == 2.0


def test_lines_are_written_above_it_and_it_comes_back_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    console = Console(screen, screen)
    console.progress("demo  step 1")
    console.pass_on("loss is 2\n")
    console.progress("demo  step 2")
    console.say("incident 1")
    console.flush()
    assert screen.lines()[0] == "loss is 2"
    assert screen.lines()[1].endswith("resilient │ incident 1")
    assert screen.lines()[2] == "demo  step 2"
    console.progress("")
    console.say("finished")
    console.flush()
    assert screen.lines()[2].endswith("finished")
    assert screen.lines()[3] == "", "nothing of it is left at the end"


def test_where_there_is_no_terminal_there_is_no_such_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(out, out)
    console.progress("demo  step 1")
    console.pass_on("loss is 2\n")
    console.flush()
    assert out.getvalue() == "loss is 2\n"
    monkeypatch.setenv("TERM", "dumb")
    assert not Console(Screen(), Screen()).has_last_line
