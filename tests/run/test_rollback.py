"""Rollbacks that a person asks for, and forks, of real runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from resilient.errors import ExitCode
from resilient.policy.lineage import RollbackCause
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.metrics_log import BATCH_HASH, GRADIENT_HASH, read_metrics, series
from resilient.protocol.rollback_request import RollbackRequest, ask, read_answer
from resilient.snapshot import catalog
from resilient.snapshot.compare import first_difference
from resilient.supervisor.status import Status
from tests.run.harness import RunCase, Workspace


def resilient(workspace: Workspace, *arguments: str, code: int = 0) -> Any:
    """What a command says in JSON."""
    command = [sys.executable, "-m", "resilient.cli", *arguments, "--json"]
    done = subprocess.run(
        command, cwd=workspace.directory, env=workspace.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if not code else done.stderr


def losses_by_round(case: RunCase) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for entry in read_metrics(case.paths.metrics):
        if "loss" in entry.metrics.values:
            found.setdefault(entry.round, {})[entry.metrics.step] = entry.metrics.values["loss"]
    return found


def test_a_finished_run_rolled_back_by_hand_does_the_same_steps_again(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("again", "retention.last=9")
    assert case.finish() == 0, case.output()
    said = resilient(workspace, "rollback", "run=again", "step=30")
    assert (said["target"], said["reached"], said["live"]) == (30, 60, False)
    assert case.finish() == 0, case.output()
    assert "is finished already" not in case.output()
    assert "starting from step 30" in case.output()
    assert sorted(losses_by_round(case)[1]) == list(range(31, 61))
    case.assert_equal_to(reference)
    lineage = read_lineage(case.paths)
    assert (lineage.pending, lineage.rollbacks[0].cause) == (False, RollbackCause.REQUEST)
    status = Status.read(case.paths.status)
    assert status is not None
    assert status.finished


def test_a_killed_run_goes_back_behind_what_is_in_its_memory(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("killed")
    running = case.start("train.step_seconds=0.05").wait_for_step(35)
    running.process.kill()
    running.process.wait()
    workspace.wait_until_alone()
    said = resilient(workspace, "rollback", "run=killed", "step=20", "skip=all", "lr=0.5")
    assert said["reached"] >= 35
    assert said["skip"] == [21, said["reached"]]
    assert case.finish("train.step_seconds=0.05") == 0, case.output()
    assert "starting from step 20" in case.output()
    (rollback,) = read_lineage(case.paths).rollbacks
    assert rollback.skipped is not None
    assert sorted(losses_by_round(case)[1]) == list(range(21, 61))
    again = losses_by_round(case)[1]
    assert again[21] != reference.losses()[21]  # other data


def test_a_run_that_is_up_goes_back_at_once(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("live", "train.hang_at=28")  # so that it is up for as long as the test takes
    running = case.start().wait_for_step(27)
    wrong = RollbackRequest("wrong", 11)
    ask(case.paths, wrong)
    while (refused := read_answer(case.paths, wrong)) is None:
        time.sleep(0.05)
    assert not refused.accepted
    assert "there is no snapshot of step 11" in refused.why
    said = resilient(workspace, "rollback", "run=live", "step=10")
    assert (said["target"], said["live"]) == (10, True)
    assert "no snapshot" in resilient(workspace, "rollback", "run=live", "step=11", code=ExitCode.NOT_FOUND)
    assert running.wait() == 0, case.output()
    assert sorted(losses_by_round(case)[1]) == list(range(11, 61))
    (rollback,) = read_lineage(case.paths).rollbacks
    assert (rollback.target, rollback.cause) == (10, RollbackCause.REQUEST)
    assert rollback.reason.startswith("a person asked for it")
    case.assert_equal_to(reference)


def test_a_fork_goes_on_as_its_source_did_and_leaves_it_alone(workspace: Workspace, reference: RunCase) -> None:
    source = workspace.run("source", "retention.last=9")
    assert source.finish() == 0, source.output()
    before = {
        step: catalog.verify(source.paths.snapshot(step)) for step in catalog.committed_steps(source.paths.snapshots)
    }
    fork = workspace.run("fork", "fingerprint.gradients=true")
    assert fork.finish("from=source:30") == 0, fork.output()
    assert "run fork forked from step 30 of the run source" in fork.output()
    assert "starting from step 30" in fork.output()
    assert fork.losses() == {step: loss for step, loss in reference.losses().items() if step > 30}
    assert first_difference(fork.image(60), reference.image(60)) is None
    assert {step: catalog.verify(source.paths.snapshot(step)) for step in before} == before
    assert len(series(fork.paths.metrics, GRADIENT_HASH)) == len(series(fork.paths.metrics, BATCH_HASH)) == 30
    rows = resilient(workspace, "snapshots", "list", "run=fork")["snapshots"]
    assert rows[-1]["step"] == 60

    assert fork.finish("from=source:30") == 0, fork.output()
    assert "goes on with what was forked from step 30 of the run source" in fork.output()
    assert "is finished already" in fork.output()


def test_a_fork_with_another_configuration_that_is_stopped_resumes_as_itself(workspace: Workspace) -> None:
    source = workspace.run("source")
    assert source.finish() == 0, source.output()
    fork = workspace.run("fork", "train.step_seconds=0.05", "snapshot.every_steps=5", steps=80)
    running = fork.start("from=source:latest").wait_for_step(66)
    running.process.terminate()
    assert running.wait() == ExitCode.REQUEUE
    assert fork.finish("from=source:latest") == 0, fork.output()
    assert sorted(fork.losses()) == list(range(61, 81))
    assert not fork.conflicting_losses()
