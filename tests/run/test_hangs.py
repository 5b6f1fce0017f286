"""Runs that hang in every way there is: found, told where, and cured."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from resilient.drill.faults import KillWorker
from tests.run.conftest import PRELOAD, make_workspace
from tests.run.harness import RunCase, Workspace

SCRIPT = Path(__file__).with_name("train_hanging.py")
_CONFIG = f"""
worker:
  script: {SCRIPT}
  preload: {PRELOAD}
snapshot:
  every_steps: 10
hang:
  min_seconds: 0.4
  factor: 3
  phase_seconds: 0.4
restarts:
  first_wait: 0
  max_wait: 0
train:
  ways: ""
  steps: 40
"""


def _run(workspace: Workspace, run_id: str, *ways: str) -> RunCase:
    (workspace.directory / "conf" / "small.yaml").write_text(_CONFIG)
    return workspace.run(run_id, f"train.ways='{','.join(ways)}'", steps=40)


def _hangs(case: RunCase) -> list[dict[str, Any]]:
    """The failures of all incidents; each is a hang."""
    incidents: list[Any] = [entry["incident"] for entry in case.journal("RecordIncident")]
    assert {incident["failure"]["failure_class"] for incident in incidents} == {"hang"}, case.output()
    return [incident["failure"] for incident in incidents]


def _stacks(case: RunCase, incident: int) -> str:
    return case.paths.stacks(incident, 0).read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run that nothing happened to."""
    case = _run(make_workspace(tmp_path_factory.mktemp("undisturbed")), "undisturbed")
    assert case.finish() == 0, case.output()
    assert not case.incidents()
    return case


def test_hangs_in_python_in_c_in_phases_and_by_a_signal(workspace: Workspace, undisturbed: RunCase) -> None:
    ways = ("lock", "c", "eval", "named", "threads", "stop")
    case = _run(workspace, "hangs", *ways)
    assert case.finish() == 0, case.output()
    failures = _hangs(case)
    assert [failure["signature"] for failure in failures] == [
        "no progress in phase step",
        "no progress in phase step",
        "no progress in phase eval",
        "no progress in phase écriture",
        "no progress in phase step",
        "no progress in phase step: stopped by a signal (SIGSTOP)",
    ]
    functions = [
        "a_lock_that_is_taken_twice",
        "a_loop_in_c_that_keeps_the_interpreter",
        "an_evaluation_that_does_not_end",
        "a_phase_of_the_users_own_that_does_not_end",
        "only_threads_that_live_on",
    ]
    for number, function in enumerate(functions, 1):
        assert function in failures[number - 1]["where"]
        own = _stacks(case, number).split("faulthandler")[1].split("py-spy")[0]
        assert re.search(rf"Current thread .*\n(  File .*\n)*?  File .* in {function}\n", own), own
    assert "State" not in _stacks(case, 6)
    assert re.search(r"thread \d+ python: T \(stopped\)", _stacks(case, 6))
    case.assert_equal_to(undisturbed, 40)


def test_a_process_that_loads_data_and_never_gets_it_is_named(workspace: Workspace, undisturbed: RunCase) -> None:
    case = _run(workspace, "data", "data")
    assert case.finish() == 0, case.output()
    (failure,) = _hangs(case)
    assert "__next__, called by main (train_hanging.py" in failure["where"]
    assert "a_file_that_never_comes (train_hanging.py" in failure["where"]
    assert failure["where"] in case.output()
    case.assert_equal_to(undisturbed, 40)


def test_an_import_that_does_not_end_is_measured_by_the_start_before(
    workspace: Workspace, undisturbed: RunCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = workspace.directory / "a_module_that_never_comes.py"
    module.write_text("import threading\n\nthreading.Event().wait()\n")
    monkeypatch.setenv("PYTHONPATH", str(workspace.directory))
    case = _run(workspace, "import", "lock", "import")
    assert case.finish() == 0, case.output()
    assert [failure["signature"] for failure in _hangs(case)] == [
        "no progress in phase step",
        "no progress in phase startup",
    ]
    assert "called by <module> (a_module_that_never_comes.py:3)" in _hangs(case)[1]["where"]
    case.assert_equal_to(undisturbed, 40)


def test_helpers_that_stand_still_are_replaced(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("helpers", "hang.phase_seconds=3", "run.allow_drift=true")
    running = case.start().wait_for_step(25)
    first = _helper(running.process.pid, "resilient.worker.forkserver")
    first.suspend()
    KillWorker().inject(running.target)  # which the forkserver does not report
    first.wait(60)
    second = _helper(running.process.pid, "resilient.worker.forkserver")
    second.suspend()  # in the middle of its imports, with a worker to be forked
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed", "hang"]
    assert "the forkserver does not answer: stopped by a signal (SIGSTOP)" in case.output()
    case.assert_equal_to(reference)

    again = case.start("train.steps=70")
    _helper(again.process.pid, "resilient.supervisor.drain_process").suspend()  # before it can read the snapshot
    assert again.wait() == 0, case.output()
    assert case.journal("AbandonRestore") == [{"step": 60, "tier": "local"}]
    assert len(case.losses()) == 70


def _helper(supervisor: int, module: str) -> psutil.Process:
    while True:
        for process in psutil.Process(supervisor).children():
            with suppress(psutil.NoSuchProcess):  # which a zombie is as well
                if module in process.cmdline():
                    return process
