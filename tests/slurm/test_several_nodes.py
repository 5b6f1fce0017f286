"""A run of two nodes as one job of a real SLURM: preempted, short of a node, requeued, and in the end the same, bit for
bit, as on one node.
"""

from __future__ import annotations

import psutil
import pytest

from tests.nodes.several import Nodes
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Job, submit

_STEP = "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 --cpu-bind=none {command}"
_SETTINGS = ("nodes=2", "worker.ranks=1", "train.step_seconds=0.05", "group.address=127.0.0.1")
_QUICK = ("group.wait_seconds=2", "group.silent_seconds=5", "group.lease_seconds=5")


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The same training by two ranks of one node, that nothing happened to."""
    case = make_workspace(tmp_path_factory.mktemp("one")).run("one", conf="ranks", ranks=2)
    assert case.finish() == 0, case.output()
    return case


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
    job = submit(cluster, case, "--nodes=2", script=f"export OMP_NUM_THREADS=1\n{_STEP}")
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
