"""What the tests take for granted of the cluster; and what of SLURM itself the code relies on."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.cluster import Cluster

# Waits for SIGTERM, says so and leaves with the exit code that it was given.
_OBEDIENT = """
trap "echo terminated >> {log}; exit {code}" TERM
echo started >> {log}
while true; do sleep 0.1; done
"""


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_a_job_over_both_nodes_runs(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = cluster.submit(f"srun bash -c 'echo $SLURMD_NODENAME' > {log}", "-N2", "-o", "/dev/null")
    assert cluster.wait_for_state(job, "COMPLETED", "FAILED") == "COMPLETED"
    assert sorted(_lines(log)) == ["n1", "n2"]


def test_a_preempted_job_that_leaves_with_exit_0_is_taken_for_completed(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    low = cluster.submit(f"srun bash -c '{_OBEDIENT.format(log=log, code=0)}'", "-N1", "-p", "low", "-o", "/dev/null")
    cluster.wait_until(lambda: _lines(log), "the job to start")
    high = cluster.submit("true", "-N2", "-p", "high", "-o", "/dev/null")
    cluster.wait_for_state(high, "COMPLETED")
    assert _lines(log) == ["started", "terminated"]
    assert cluster.state(low) == "COMPLETED"
