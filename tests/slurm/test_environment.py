from __future__ import annotations

import pytest

from resilient.errors import ConfigurationError
from resilient.slurm.environment import JobEnvironment

# What SLURM 22.05 set in a step of an array's second job, after it had been requeued once.
STEP = {
    "SLURM_JOB_ID": "8",
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "n2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_PARTITION": "low",
    "SLURM_STEP_ID": "0",
}


def test_outside_a_job_there_is_none() -> None:
    assert JobEnvironment.read({}) is None
    assert JobEnvironment.read({"SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": ""}) is None


def test_all_that_is_said_of_a_step() -> None:
    found = JobEnvironment.read(STEP)
    assert found == JobEnvironment(
        8, 1, nodes=2, node_rank=1, node="n2", node_list="n[1-2]", partition="low", step=0, array=(7, 1)
    )
    assert not found.leads
    assert str(found) == "SLURM job 7_1 on n[1-2]"


def test_a_batch_script_has_no_step_and_a_first_start_no_count() -> None:
    found = JobEnvironment.read({"SLURM_JOB_ID": "5", "SLURMD_NODENAME": "n1", "SLURM_JOB_END_TIME": "1795887302"})
    assert found == JobEnvironment(5, node="n1", ends_at=1795887302.0)
    assert found.step is None
    assert found.leads


@pytest.mark.parametrize("value", ["eight", "-1", "8_1", "8.0"])
def test_what_slurm_never_sets_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"SLURM_JOB_ID={value}"):
        JobEnvironment.read({"SLURM_JOB_ID": value})
