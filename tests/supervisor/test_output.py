"""Following logs while they grow and are rotated, and what of them is shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.errors import ConfigurationError
from resilient.policy.events import Incident
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.state import PolicySettings
from resilient.protocol.launch import WorkerError
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor.console import Console
from resilient.supervisor.output import LineSplitter, LogFollower, WorkerOutput
from resilient.supervisor.round_logs import failed_rounds, rounds_to_delete, set_aside_if_large
from resilient.supervisor.round_output import RoundOutput
from resilient.supervisor.settings import ConsoleSettings, LogSettings, Prefix, WorkerSettings
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.view import View


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Screen:
    """A view, what it shows, and a clock."""

    def __init__(self, log: Path, *, ranks: int = 1, terminal: bool = False, **shown: Any) -> None:
        self.now = 100.0
        self._out: io.StringIO = Terminal() if terminal else io.StringIO()
        self._console = Console(self._out, io.StringIO())
        self.view = View(self._console, ConsoleSettings(**shown), ranks, lambda rank: log, lambda: self.now)

    def lines(self) -> list[str]:
        """All lines that are shown so far."""
        self.view.flush()
        self._console.flush()
        return self._out.getvalue().splitlines()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "rank-00000.log"


def append(path: Path, text: str) -> None:
    with path.open("a", newline="") as stream:
        stream.write(text)


def rotate(log: Path, number: int) -> None:
    log.rename(log.with_name(f"rank-00000.{number:04d}.log"))
    log.touch()


# --- following


def test_a_follower_begins_where_the_log_ends_and_waits_for_whole_lines(log: Path) -> None:
    append(log, "old\n")
    follower = LogFollower(log)
    assert follower.read(1000) == []
    append(log, "new\nhalf")
    assert follower.read(1000) == ["new"]
    append(log, " and half\n")
    assert follower.read(1000) == ["half and half"]
    follower.close()


def test_a_log_that_is_made_later_is_read_from_its_beginning(log: Path) -> None:
    follower = LogFollower(log)
    assert follower.read(1000) == []
    append(log, "first\n")
    assert follower.read(1000) == ["first"]
    follower.close()


def test_no_line_is_lost_or_repeated_over_rotations_however_many_came_between_two_looks(log: Path) -> None:
    append(log, "")
    follower = LogFollower(log)
    written = []
    for number in range(1, 8):
        line = f"line {number}"
        append(log, f"{line}\n")
        written.append(line)
        if number in (2, 6):
            assert follower.read(1000) == written[(0 if number == 2 else 2) :]
        rotate(log, number)
    append(log, "last\n")
    assert follower.read(1000) == [written[-1], "last"]
    follower.close()


def test_what_is_written_to_a_piece_that_was_rotated_away_is_read_too(log: Path) -> None:
    with log.open("a") as kept_open:
        follower = LogFollower(log)
        rotate(log, 1)
        append(log, "new\n")
        assert follower.read(1000) == ["new"]
        kept_open.write("late\n")
        kept_open.flush()
        assert follower.read(1000) == ["late"]
    follower.close()


def test_pieces_that_were_deleted_before_they_were_read_are_passed_over(log: Path) -> None:
    append(log, "seen\n")
    follower = LogFollower(log)
    for number in range(1, 6):
        rotate(log, number)
        append(log, f"in the log after rotation {number}\n")
    for number in range(1, 5):
        log.with_name(f"rank-00000.{number:04d}.log").unlink()
    assert follower.read(1000) == ["in the log after rotation 4", "in the log after rotation 5"]
    follower.close()


def test_an_emptied_log_is_read_from_its_beginning_again(log: Path) -> None:
    append(log, "something long\n")
    follower = LogFollower(log)
    log.write_text("")
    assert follower.read(1000) == []
    append(log, "new\n")
    assert follower.read(1000) == ["new"]
    follower.close()


@settings(max_examples=60)
@given(actions=st.lists(st.sampled_from(["write", "write", "half", "read", "rotate"]), max_size=40))
def test_any_order_of_writing_reading_and_rotating_gives_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    log = tmp_path_factory.mktemp("log") / "rank-00000.log"
    follower = LogFollower(log)
    log.touch()
    written, seen, count, rotations, whole = "", [], 0, 0, True
    for action in actions:
        if action in {"write", "half"}:
            count += 1
            text, whole = f"<{count}>" + "\n" * (action == "write"), action == "write"
            append(log, text)
            written += text
        elif action == "read":
            seen += follower.read(1 << 16)
        elif whole:  # as the worker does it
            rotations += 1
            rotate(log, rotations)
    seen += follower.read(1 << 16)
    seen += follower.finish()
    follower.close()
    assert seen == written.splitlines()


def test_a_flood_is_read_in_parts_and_of_a_worker_far_ahead_only_the_end(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = WorkerOutput({0: log})
    count = 300_000
    append(log, "".join(f"line {number:06d}\n" for number in range(count)))
    first = list(output.read())
    assert 1000 < len(first) < count
    assert first[0] == (0, "line 000000")
    assert [line for _, line in (*first, *output.read_to_end(0))] == [f"line {number:06d}" for number in range(count)]
    assert output.skipped(0) == 0
    monkeypatch.setattr("resilient.supervisor.output._MOST_BEHIND", 1 << 20)
    append(log, "".join(f"line {number:06d}\n" for number in range(count)))
    assert list(output.read())[-1] == (0, f"line {count - 1:06d}")
    assert output.skipped(0) > 1 << 20
    output.close()


def test_of_a_progress_bar_the_last_state_counts() -> None:
    splitter = LineSplitter()
    for percent in range(0, 100, 3):
        assert splitter.feed(f"\r{percent}%".encode()) == []
    assert splitter.unfinished == "99%"
    assert splitter.is_progress_bar
    assert len(splitter._rest) < 10
    assert splitter.feed(b"\r100%\nnext\r\n") == ["100%", "next"]
    assert splitter.feed(b"5%\r") == []
    assert splitter.unfinished == "5%"
    assert splitter.feed(b"6%\r\n") == ["6%"]


def test_a_character_in_two_parts_is_one() -> None:
    splitter = LineSplitter()
    first, second = "é\n".encode()[:1], "é\n".encode()[1:]
    assert splitter.feed(first) == []
    assert splitter.feed(second) == ["é"]


# --- showing


def test_one_rank_has_no_prefix_and_several_have(log: Path) -> None:
    one, two = Screen(log), Screen(log, ranks=2)
    for screen in (one, two):
        screen.view.show(0, "hello")
        screen.view.show(1, "not asked for")
    assert one.lines() == ["hello"]
    assert two.lines() == ["[0] hello"]


def test_ranks_that_are_asked_for(log: Path) -> None:
    view = View(Console(io.StringIO(), io.StringIO()), ConsoleSettings("all"), 3, lambda rank: log, lambda: 0.0)
    assert view.ranks == [0, 1, 2]
    view = View(Console(io.StringIO(), io.StringIO()), ConsoleSettings([2, 7]), 3, lambda rank: log, lambda: 0.0)
    assert view.ranks == [2]
    with pytest.raises(ConfigurationError, match=r"console\.ranks"):
        ConsoleSettings("some")
    with pytest.raises(ConfigurationError, match=r"console\.ranks"):
        ConsoleSettings([-1])


def test_prefix_can_be_had_always_or_never(log: Path) -> None:
    always, never = Screen(log, prefix=Prefix.always), Screen(log, ranks=2, prefix=Prefix.never)
    for screen in (always, never):
        screen.view.show(0, "hello")
    assert always.lines() == ["[0] hello"]
    assert never.lines() == ["hello"]


def test_a_repeated_line_is_counted(log: Path) -> None:
    screen = Screen(log)
    for _ in range(1000):
        screen.view.show(0, "warning: again")
    screen.view.show(0, "done")
    assert screen.lines() == ["warning: again", "warning: again (×999 more)", "done"]


def test_a_line_that_comes_a_few_times_is_shown_as_often(log: Path) -> None:
    screen = Screen(log)
    for line in ("a", "a", "", "", "", "b"):
        screen.view.show(0, line)
    assert screen.lines() == ["a", "a", "", "", "", "b"]


def test_repeats_are_told_when_nothing_follows(log: Path) -> None:
    screen = Screen(log)
    for _ in range(10):
        screen.view.show(0, "again")
    screen.now += 1.5
    screen.view.look([])
    assert screen.lines() == ["again", "again (×9 more)"]


def test_more_lines_than_can_be_read_are_counted(log: Path) -> None:
    screen = Screen(log, lines_per_second=10)
    for number in range(1244):
        screen.view.show(0, f"line {number}")
    assert screen.lines() == [f"line {number}" for number in range(10)]
    screen.now += 1.1
    screen.view.look([])
    screen.view.show(0, "quiet again")
    assert screen.lines()[10:] == [f"… 1,234 lines not shown, see {log}", "quiet again"]


def test_an_unfinished_line_is_shown_after_a_moment_and_not_twice(log: Path) -> None:
    screen = Screen(log)
    screen.view.look([(0, "Continue? ", False)])
    assert screen.lines() == []
    screen.now += 1.5
    screen.view.look([(0, "Continue? ", False)])
    screen.now += 1.5
    screen.view.look([(0, "Continue? ", False)])
    assert screen.lines() == ["Continue? "]
    screen.view.show(0, "Continue? yes")
    screen.view.show(0, "next")
    assert screen.lines() == ["Continue? ", "yes", "next"]


def test_a_progress_bar_is_shown_now_and_then(log: Path) -> None:
    screen = Screen(log)
    for second in range(25):
        screen.view.look([(0, f"{second}%", True)])
        screen.now += 1
    screen.view.show(0, "100%")
    assert screen.lines() == ["10%", "20%", "100%"]


def test_colours_are_for_terminals(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    plain, coloured = Screen(log, ranks=2), Screen(log, ranks=2, terminal=True)
    for screen in (plain, coloured):
        screen.view.show(0, "\x1b[31mred\x1b[0m\x1b[A and up")
    assert plain.lines() == ["[0] red and up"]
    assert coloured.lines() == ["\x1b[36m[0] \x1b[0m\x1b[31mred\x1b[0m and up\x1b[0m"]
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(log, ranks=2, terminal=True)
    screen.view.show(0, "plain")
    assert screen.lines() == ["[0] plain"]


def test_the_end_of_a_rank_that_is_not_shown_is_shown_when_it_failed(log: Path) -> None:
    screen = Screen(log, ranks=2)
    screen.view.failed(1, "Traceback (most recent call last):\nValueError: bad\n")
    assert screen.lines() == ["[1] Traceback (most recent call last):", "[1] ValueError: bad"]
    append(log, "Fatal Python error: Segmentation fault\n")
    screen.view.failed(1, "")
    assert screen.lines()[2:] == ["[1] Fatal Python error: Segmentation fault"]


def test_a_failure_that_was_seen_is_not_shown_again_but_one_in_a_flood_is(log: Path) -> None:
    screen = Screen(log, lines_per_second=2)
    screen.view.show(0, "ValueError: bad")
    screen.view.failed(0, "ValueError: bad\n")
    assert screen.lines() == ["ValueError: bad"]
    for number in range(5):
        screen.view.show(0, f"line {number}")
    screen.view.failed(0, "ValueError: bad\n")
    assert screen.lines()[-1] == "[0] ValueError: bad"


def test_a_very_long_line_is_cut(log: Path) -> None:
    screen = Screen(log)
    screen.view.show(0, "x" * 10_000)
    assert screen.lines() == ["x" * 4096 + "… (5,904 more characters)"]


# --- room


def test_first_last_and_failed_rounds_are_kept() -> None:
    assert rounds_to_delete(range(10), [3, 5], 2) == [1, 2, 4, 6, 7]
    assert rounds_to_delete(range(10), [], 0) == []
    assert rounds_to_delete([4, 5, 6], [], 2) == []
    assert len(rounds_to_delete(range(1000), range(1000), 2)) == 1000 - 100 - 1


def test_a_preemption_is_no_failure_of_its_round() -> None:
    def incident(number: int, name: str) -> dict[str, Any]:
        failure = {"failure_class": name, "signature": ""}
        return {"name": "RecordIncident", "data": {"incident": {"round": number, "failure": failure}}}

    entries = [incident(1, "preemption"), incident(2, "crash"), incident(3, "supervisor lost"), {"name": "Tick"}]
    assert failed_rounds(entries) == {2}


def test_a_helper_begins_a_new_log_when_the_old_one_is_large(tmp_path: Path) -> None:
    log = tmp_path / "drain.log"
    set_aside_if_large(log, 3)
    log.write_text("abc")
    set_aside_if_large(log, 3)
    assert log.exists()
    log.write_text("abcd")
    set_aside_if_large(log, 3)
    assert not log.exists()
    assert (tmp_path / "drain.old.log").read_text() == "abcd"


@pytest.mark.parametrize("bad", [{"max_bytes": 1}, {"keep": 0}, {"keep_rounds": -1}])
def test_log_settings_that_make_no_sense(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=rf"logs\.{next(iter(bad))}"):
        LogSettings(**bad)


def test_descriptors_are_given_back(log: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    append(log, "x\n")
    output = WorkerOutput({0: log})
    for number in range(1, 6):
        rotate(log, number)
        append(log, "y\n")
        list(output.read())
    output.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_rounds_output_is_shown_and_left_when_the_next_begins(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "run")
    policy, snapshot, worker = PolicySettings(ranks=2), SnapshotSettings(), WorkerSettings(script="train.py")
    out = io.StringIO()
    console = Console(out, io.StringIO())
    output = RoundOutput(RunSpec(paths, worker, snapshot, policy), console, lambda: 0.0)
    output.pass_on()
    for number in (0, 1):
        paths.round_logs(number).mkdir(parents=True)
        output.follow(number)
        append(paths.log(number, 0), f"round {number}\nloss 1")
        append(paths.log(number, 1), "not followed\n")
        output.pass_on()
        output.ended(0)
    WorkerError(("ValueError",), "bad", "Traceback:\nValueError: bad\n").write(paths.error_file(1, 1))
    output.explain(Incident(1, 1, 1, 5, Failure(FailureClass.APPLICATION, "ValueError: bad")))
    output.explain(Incident(2, 1, None, 5, Failure(FailureClass.PREEMPTION, "asked to leave")))
    output.close()
    console.flush()
    assert out.getvalue().splitlines() == [
        "[0] round 0",
        "[0] loss 1",
        "[0] round 1",
        "[0] loss 1",
        "[1] Traceback:",
        "[1] ValueError: bad",
    ]
