"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resilient.policy.lineage import Rollback
from resilient.protocol.tracker_settings import TensorboardSettings
from resilient.trackers.lane import place_of
from resilient.trackers.place import Place
from resilient.trackers.tensorboard import Tensorboard
from tests.trackers.logs import Logs, tell


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "run")


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def track(logs: Logs) -> Path:
    tell("tensorboard", Tensorboard, logs.context())
    return logs.paths.root / "tensorboard"


def test_scalars_are_read_back_by_step_over_launches(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 3)
    track(logs)
    logs.open(last_round=0, step=3)
    logs.steps(4, 5, odd=float("nan"), huge=1e300)
    found = scalars(track(logs), "loss")
    assert [step for step, _ in found] == [1, 2, 3, 4, 5]
    assert found[1][1] == 0.5
    assert scalars(track(logs), "huge")[0][1] == float("inf")
    assert len(scalars(track(logs), "resilient/step_seconds")) == 3
    assert [value for _, value in scalars(track(logs), "resilient/round")] == [0, 0, 0, 1, 1]
    assert len(list((logs.paths.root / "tensorboard").iterdir())) == 2


def test_what_a_rollback_discards_is_purged(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 8, loss=1.0)
    logs.roll_back(Rollback(3, 8, 0))
    logs.launch(1, 3)
    logs.steps(4, 6, loss=2.0)
    directory = track(logs)
    assert scalars(directory, "loss") == [(step, 1.0) for step in (1, 2, 3)] + [(step, 2.0) for step in (4, 5, 6)]
    assert {value for step, value in scalars(directory, "resilient/lineage") if step > 3} == {1.0}


def test_what_is_done_again_after_a_lost_node_is_there_once(logs: Logs) -> None:
    logs.open()
    logs.steps(1, 8)
    logs.open(last_round=0, step=5)
    logs.steps(6, 9)
    assert [step for step, _ in scalars(track(logs), "loss")] == list(range(1, 10))


def test_what_is_told_again_after_a_kill_is_there_once(logs: Logs) -> None:
    logs.steps(1, 3)
    track(logs)
    before = Place.read(place_of(logs.context(), "tensorboard"))
    logs.steps(4, 6)
    track(logs)
    before.write(place_of(logs.context(), "tensorboard"))  # as if it had been killed before it wrote that down
    assert [step for step, _ in scalars(track(logs), "loss")] == [1, 2, 3, 4, 5, 6]


def test_it_goes_where_it_is_told(logs: Logs, tmp_path: Path) -> None:
    logs.steps(1, 1)
    context = logs.context(tensorboard=TensorboardSettings(enabled=True, dir=str(tmp_path / "elsewhere")))
    tell("tensorboard", Tensorboard, context)
    assert scalars(tmp_path / "elsewhere", "loss") == [(1, 1.0)]
    assert json.loads(place_of(context, "tensorboard").read_text())["tracker"]["step"] == 1
