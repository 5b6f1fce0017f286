"""What a later start reads in the status of the run."""

from __future__ import annotations

import pytest

from resilient.errors import ExitCode
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
