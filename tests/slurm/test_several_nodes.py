"""A run of two nodes as one job of a real SLURM: preempted, short of a node, requeued, and in the end the same, bit for
bit, as on one node.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from resilient.report.replay import read_lines, replay
from tests.nodes.several import Nodes
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Job

_SETTINGS = (
    "slurm.nodes=2",
    "slurm.partition=low",
    "worker.ranks=1",
    "train.step_seconds=0.05",
    "group.address=127.0.0.1",
)
_QUICK = ("group.wait_seconds=2", "group.silent_seconds=5", "group.lease_seconds=5")


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The same training by two ranks of one node, that nothing happened to."""
    case = make_workspace(tmp_path_factory.mktemp("one")).run("one", conf="ranks", ranks=2)
    assert case.finish() == 0, case.output()
    return case


def _submitted(cluster: Cluster, case: RunCase) -> Job:
    """As people do it. The job has the environment of whoever submits it."""
    directory, variables = case.workspace.directory, {**case.workspace.environment(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "resilient", "submit", f"conf={case.configuration()}", f"run.id={case.run_id}"]
    done = subprocess.run(
        [*command, f"run.dir={directory / 'runs'}", *case.settings, "--json"],
        cwd=directory,
        env={**variables, **cluster.environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return Job(cluster, case, int(told["job"]), Path(told["runs"][0]["log"]))


def _wait_for_step(job: Job, run: Nodes, step: int) -> None:
    def reached() -> bool:
        return max((entry.metrics.step for entry in run.entries()), default=0) >= step

    job.wait_until(reached, f"step {step}")


def _kill_supervisor(workspace: Workspace, node: str) -> None:
    """With all that it has started, as when the machine is gone."""
    for process in workspace.processes():
        try:
            if process.environ().get("SLURMD_NODENAME") == node:
                process.kill()
        except (psutil.Error, OSError):
            continue


def test_preempted_and_left_by_a_node_it_comes_back_and_is_the_same(
    cluster: Cluster, workspace: Workspace, one_node: RunCase
) -> None:
    case = workspace.run("both", *_SETTINGS, *_QUICK, conf="ranks", ranks=2)
    run = Nodes(workspace, "both")
    job = _submitted(cluster, case)
    _wait_for_step(job, run, 10)
    job.preempt()
    job.wait_until(lambda: job.restarts == 1, "the job to come back")
    reached = max(run.losses(0))
    _wait_for_step(job, run, reached + 5)
    _kill_supervisor(workspace, "n2")
    job.wait_until(lambda: job.restarts == 2, "the job to come back once more")
    assert job.finish().finished, job.text()
    assert job.state == "COMPLETED"
    assert job.restarts == 2, "nobody asked twice"
    assert run.classes() == ["preemption", "node lost", "node lost"], job.text()
    assert run.sources()[:2] == [None, "local"]
    assert "a second time" not in job.text(), "that both nodes are told to leave is no hurry"
    run.assert_equal_to(one_node)
    for journal in (run.paths.root / "journal").iterdir():
        assert replay(read_lines(journal)).differences == ()


def test_a_node_that_fails_does_not_end_the_job_of_a_run_that_can_spare_it(
    cluster: Cluster, workspace: Workspace, one_node: RunCase
) -> None:
    case = workspace.run("spare", *_SETTINGS, *_QUICK, "nodes=1:2", "worker.ranks=2", conf="ranks", ranks=2)
    run = Nodes(workspace, "spare")
    job = _submitted(cluster, case)
    _wait_for_step(job, run, 10)
    cluster.lose_node("n2")
    _kill_supervisor(workspace, "n2")
    assert job.finish().finished, job.text()
    assert job.state == "COMPLETED", job.text()
    assert (job.restarts, run.sources()) == (0, [None])
    run.assert_equal_to(one_node)
