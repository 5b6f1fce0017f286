"""The trackers' process beside a supervisor: started again when it dies, waited for at the end, and not for long."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from resilient.policy.events import StopKind, StopRequested
from resilient.policy.state import RunState
from resilient.protocol.tracker_settings import CommandSettings, JsonlSettings, TrackersSettings
from resilient.supervisor import tracking
from resilient.supervisor.console import Console
from resilient.supervisor.journal import read_journal
from resilient.supervisor.tracking import Tracking
from tests.trackers.logs import Logs, wait_until

JSONL = TrackersSettings(jsonl=JsonlSettings(enabled=True), end_seconds=60.0)


class Heard(Console):
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def say(self, message: str) -> None:
        self._said.append(message)


class Supervised:
    """A supervisor's loop, as far as it has to do with trackers."""

    def __init__(self, root: Path, settings: TrackersSettings) -> None:
        self.logs = Logs(root)
        self.said: list[str] = []
        self.tracking = Tracking(
            settings, self.logs.paths, journal=self.logs.journal, console=Heard(self.said), clock=time.monotonic
        )

    def turn(self) -> None:
        for connection, handler in self.tracking.connections().items():
            connection.settimeout(0.02)
            try:
                handler()
            except TimeoutError:
                continue
        self.tracking.poll()

    def until(self, condition: Callable[[], object]) -> None:
        def turned() -> object:
            self.turn()
            return condition()

        wait_until(turned)

    def told(self) -> list[int]:
        file = self.logs.paths.root / "trackers" / "details.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [body["step"] for body in map(json.loads, lines) if body["kind"] == "metrics"]


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    found = Supervised(tmp_path / "run", JSONL)
    yield found
    found.tracking.close()


def test_without_a_tracker_there_is_no_process(tmp_path: Path) -> None:
    before = psutil.Process().children()  # of other tests
    supervised = Supervised(tmp_path / "run", TrackersSettings())
    assert supervised.tracking.pid is None
    assert not supervised.tracking.connections()
    supervised.tracking.poll()
    supervised.tracking.end(RunState())
    supervised.tracking.close()
    assert not set(psutil.Process().children()) - set(before)


def test_at_the_end_everything_is_told(supervised: Supervised) -> None:
    supervised.logs.steps(1, 500)
    assert supervised.tracking.pid is not None
    process = psutil.Process(supervised.tracking.pid)
    supervised.tracking.end(RunState())
    supervised.tracking.close()
    assert supervised.told() == list(range(1, 501))
    assert not process.is_running()
    assert not supervised.said


def test_one_that_is_killed_is_started_again_and_goes_on(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervised.logs.steps(1, 3)
    supervised.until(lambda: supervised.told() == [1, 2, 3])
    first = supervised.tracking.pid
    assert first is not None
    psutil.Process(first).kill()
    supervised.logs.steps(4, 6)
    supervised.until(lambda: supervised.told() == [1, 2, 3, 4, 5, 6])
    assert supervised.tracking.pid != first
    assert any("has died" in words for words in supervised.said)
    assert [entry["again_after"] for entry in read_journal(supervised.logs.paths.journal)] == [3.0]


def test_what_cannot_be_started_ends_nothing(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    (logs.paths.root / "logs" / "trackers.log").mkdir()
    supervised = Supervised(tmp_path / "run", JSONL)
    supervised.turn()
    assert supervised.tracking.pid is None
    assert "the trackers cannot be started" in supervised.said[0]
    (logs.paths.root / "logs" / "trackers.log").rmdir()
    supervised.until(lambda: supervised.tracking.pid)
    supervised.tracking.end(RunState())
    supervised.tracking.close()


def test_one_that_cannot_live_is_tried_less_and_less(supervised: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_LIVED_SECONDS", 3600.0)
    for _ in range(2):
        supervised.until(lambda: supervised.tracking.pid)
        assert supervised.tracking.pid is not None
        psutil.Process(supervised.tracking.pid).kill()
        supervised.until(lambda: supervised.tracking.pid is None)
    assert [entry["again_after"] for entry in read_journal(supervised.logs.paths.journal)] == [3.0, 6.0]
    assert len(supervised.said) == 1


def test_under_a_preemption_one_that_hangs_gets_half_of_what_is_left(supervised: Supervised) -> None:
    assert supervised.tracking.pid is not None
    process = psutil.Process(supervised.tracking.pid)
    process.send_signal(signal.SIGSTOP)
    stop = StopRequested(StopKind.PREEMPTION, grace=1.0)
    began = time.monotonic()
    supervised.tracking.end(replace(RunState(), stop=stop, stop_asked_at=began))
    assert supervised.tracking._end_by is not None
    assert supervised.tracking._end_by <= began + 0.6
    supervised.tracking.close()
    assert not process.is_running()
    assert "were not ready in time" in supervised.said[-1]


def test_a_person_who_waits_has_the_time(supervised: Supervised) -> None:
    stop = StopRequested(StopKind.REQUEST, grace=1.0, patient=True)
    supervised.tracking.end(replace(RunState(), stop=stop, stop_asked_at=time.monotonic()))
    assert supervised.tracking._end_by is not None
    assert supervised.tracking._end_by > time.monotonic() + 30


def test_a_command_that_is_still_running_does_not_hold_up_the_end(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    argv = ["sh", "-c", f"touch {marker}; exec sleep 600"]
    settings = TrackersSettings(command=CommandSettings(argv=argv, on=["started"]), end_seconds=1.0)
    supervised = Supervised(tmp_path / "run", settings)
    supervised.logs.open()
    supervised.until(marker.exists)
    assert supervised.tracking.pid is not None
    (command,) = psutil.Process(supervised.tracking.pid).children()
    supervised.tracking.end(RunState())
    supervised.tracking.close()
    assert "were not ready in time" in supervised.said[-1]
    command.kill()  # it is the supervisor's, which ends all that its helpers leave
