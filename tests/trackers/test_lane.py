"""One tracker at work: what it fails at is tried again and then left out, and it goes on from where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resilient.trackers import lane
from resilient.trackers.details import Details
from resilient.trackers.lane import Lane, place_of
from resilient.trackers.place import Place
from resilient.trackers.tracker import Context, Tracker
from tests.trackers.logs import Logs, Telling, tell, wait_until


class Record(Tracker):
    """Keeps the steps that it was told, in a list that its successors share."""

    def __init__(self, steps: list[int], *, fails_at: Callable[[int], bool] = lambda _: False) -> None:
        super().__init__()
        self._steps = steps
        self._fails_at = fails_at
        self.closed = False

    def metrics(self, details: Details) -> None:
        if self._fails_at(details.step):
            raise OSError("https://secret.example/token")
        self._steps.append(details.step)
        self.state["last"] = details.step

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "run")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(lane, "_LOOK_SECONDS", 0.01)


def test_everything_is_told_once_over_several_launches(logs: Logs) -> None:
    steps: list[int] = []
    logs.steps(1, 3)
    tell("record", lambda _: Record(steps), logs.context())
    logs.steps(4, 5)
    tell("record", lambda _: Record(steps), logs.context())
    tell("record", lambda _: Record(steps), logs.context())
    assert steps == [1, 2, 3, 4, 5]


def test_what_comes_later_is_told_while_it_runs(logs: Logs) -> None:
    steps: list[int] = []
    with Telling("record", lambda _: Record(steps), logs.context()):
        logs.steps(1, 1)
        wait_until(lambda: steps == [1])
        logs.steps(2, 2)
        wait_until(lambda: steps == [1, 2])
    assert steps == [1, 2]


def test_a_failure_is_tried_again_with_another_object_and_its_state(logs: Logs) -> None:
    steps: list[int] = []
    made: list[Record] = []
    failed: list[int] = []

    def once(step: int) -> bool:
        if step == 2 and not failed:
            failed.append(step)
            return True
        return False

    def make(_: Context) -> Tracker:
        made.append(Record(steps, fails_at=once))
        return made[-1]

    logs.steps(1, 3)
    tell("record", make, logs.context())
    assert steps[-2:] == [2, 3]
    assert set(steps) == {1, 2, 3}
    assert len(made) == 2
    assert made[-1].state == {"last": 3}


def test_what_it_always_fails_at_is_left_out_and_counted_and_nothing_of_it_is_told(
    logs: Logs, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[int] = []
    said: list[str] = []
    logs.steps(1, 4)
    tell("record", lambda _: Record(steps, fails_at=lambda step: step == 2), logs.context(said.append))
    assert steps[-2:] == [3, 4]
    assert "WARNING: tracker record fails (OSError); training goes on" in said
    assert said[-1] == "tracker record has left out 1 things in all"
    assert json.loads(place_of(logs.context(), "record").read_text())["dropped"] == 1
    assert "secret" not in "".join([*said, *capfd.readouterr()])


def test_a_tracker_that_cannot_be_made_is_tried_for_ever(logs: Logs) -> None:
    steps: list[int] = []
    tries: list[int] = []

    def make(_: Context) -> Tracker:
        tries.append(1)
        if len(tries) < 6:
            raise ImportError
        return Record(steps)

    logs.steps(1, 2)
    with Telling("record", make, logs.context()):
        wait_until(lambda: steps == [1, 2])


def test_one_that_leaves_the_interpreter_ends_nothing(logs: Logs) -> None:
    steps: list[int] = []
    tries: list[int] = []

    def leave(step: int) -> bool:
        tries.append(step)
        if len(tries) == 1:
            raise SystemExit(1)
        return False

    logs.steps(1, 2)
    with Telling("record", lambda _: Record(steps, fails_at=leave), logs.context()):
        wait_until(lambda: steps == [1, 2])


def test_what_is_not_safe_yet_is_told_again_after_a_kill(logs: Logs) -> None:
    class Slow(Record):
        settle_seconds = 3600.0

    steps: list[int] = []
    logs.steps(1, 3)
    killed = Telling("slow", lambda _: Slow(steps), logs.context())
    killed.lane.start()
    wait_until(lambda: steps == [1, 2, 3])
    time.sleep(0.1)
    assert not place_of(logs.context(), "slow").exists()
    tell("slow", lambda _: Slow(steps), logs.context())
    assert steps == [1, 2, 3, 1, 2, 3]
    assert json.loads(place_of(logs.context(), "slow").read_text())["tracker"] == {"last": 3}  # it has closed
    killed.__exit__()


def _complaining(*lanes: Lane) -> bool:
    for each in lanes:
        each.complain()
    return True


def test_a_hanging_tracker_holds_up_no_other_and_is_named(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(Tracker):
        def told(self, details: Details) -> None:
            time.sleep(3600)

    monkeypatch.setattr(lane, "_HANGS_SECONDS", 0.2)
    said: list[str] = []
    logs.open()
    logs.steps(1, 2)
    hung = Telling("hangs", lambda _: Hangs(), logs.context(said.append))
    hung.lane.start()
    steps: list[int] = []
    with Telling("record", lambda _: Record(steps), logs.context(said.append)) as other:
        wait_until(lambda: _complaining(hung.lane, other.lane) and said)
        hung.lane.complain()
    assert steps == [1, 2]
    assert said == ["WARNING: tracker hangs hangs; training goes on"]
    assert hung.lane.daemon


def test_a_slow_one_says_what_it_has_left_out(logs: Logs) -> None:
    steps: list[int] = []
    said: list[str] = []
    logs.steps(1, 2000)
    tell("record", lambda _: Record(steps), logs.context(said.append, most_behind_bytes=1 << 16))
    assert 0 < len(steps) < 2000
    assert f"WARNING: tracker record is too slow: {2000 - len(steps)} lines of metrics were left out" in said


def test_a_place_that_cannot_be_understood_is_none(tmp_path: Path) -> None:
    for unusable in ("", "[]", '{"files": {"a": "b"}}', "\x00"):
        (tmp_path / "place.json").write_text(unusable)
        assert Place.read(tmp_path / "place.json") == Place()
