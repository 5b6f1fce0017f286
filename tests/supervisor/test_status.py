"""What a later start reads in the status of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.errors import ExitCode
from resilient.policy.lineage import Lineage, Rollback
from resilient.policy.state import RunState
from resilient.supervisor.status import Status


@pytest.mark.parametrize(
    ("step", "code", "nothing"),
    [
        (0, ExitCode.WORKER_ERROR, True),
        (0, ExitCode.CRASH_LOOP, True),
        (3, ExitCode.WORKER_ERROR, False),
        (0, ExitCode.REQUEUE, False),
        (0, None, False),
    ],
)
def test_run_that_never_made_a_step_because_of_a_mistake_came_to_nothing(
    step: int, code: ExitCode | None, nothing: bool
) -> None:
    status = Status("ended", step, 0, 0, None if code is None else int(code))
    assert status.came_to_nothing is nothing


def test_rollbacks_are_in_the_file_where_there_were_any(tmp_path: Path) -> None:
    place = tmp_path / "status.json"
    Status.of(RunState(step=7), "running", 60).write(place)
    assert not {"rollbacks", "lr_factor"} & json.loads(place.read_text()).keys()
    assert Status.read(place) == replace(Status("running", 7, 60, 0), updated=json.loads(place.read_text())["updated"])
    lineage = Lineage().rolled_back(Rollback(3, 9, 0, lr_factor=0.5))
    Status.of(RunState(step=7, lineage=lineage), "running", 60).write(place)
    read = Status.read(place)
    assert read is not None
    assert (read.rollbacks, read.lr_factor) == (1, 0.5)
