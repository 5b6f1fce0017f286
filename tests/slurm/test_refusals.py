"""What `sbatch` 22.05 really writes, and what is made of it."""

from __future__ import annotations

import pytest

from resilient.errors import ExitCode
from resilient.slurm.partitions import Partition
from resilient.slurm.refusals import refusal

_FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n" + _FAILED + "Invalid partition name specified",
            "partition",
        ),
        (_FAILED + "User's group not permitted to use this partition", "partition"),
        (_FAILED + "Required partition not available (inactive or drain)", "partition"),
        (_FAILED + "Invalid account or account/partition combination specified", "account"),
        (_FAILED + "Invalid qos specification", "qos"),
        (_FAILED + "Requested time limit is invalid (missing or exceeds some limit)", "time"),
        (_FAILED + "Invalid feature specification", "constraint"),
        ("sbatch: error: Invalid generic resource (gres) specification", "gres"),
        ("sbatch: error: Memory specification can not be satisfied\n" + _FAILED + "Requested node …", "mem"),
        ("sbatch: error: Invalid --mem specification", "mem"),
        ("sbatch: error: Invalid --time specification", "time"),
        ("sbatch: error: Invalid --signal specification", "extra (signal)"),
        ("sbatch: unrecognized option '--nope=1'\nTry \"sbatch --help\" for more information", "extra (nope)"),
        (_FAILED + "Invalid node name specified", "exclude"),
        (_FAILED + "Invalid job array specification", "array"),
        (_FAILED + "Requested reservation is invalid", "extra"),
        (_FAILED + "Requested node configuration is not available", "nodes, slurm.cpus_per_task"),
    ],
)
def test_the_setting_that_is_meant_is_named(said: str, setting: str) -> None:
    error = refusal(said, [Partition("low"), Partition("short", seconds=300)])
    assert error.exit_code is ExitCode.SCHEDULER
    assert error.remedy.startswith(f"change slurm.{setting}")
    assert error.remedy.endswith("partitions here: low, short (up to 00:05:00)")


def test_what_is_not_known_is_told_as_it_is() -> None:
    error = refusal(_FAILED + "The moon is full\n", [])
    assert error.problem == "SLURM refuses the job: The moon is full"
    assert "section slurm" in error.remedy


def test_the_same_is_not_told_twice() -> None:
    assert refusal("sbatch: error: It is closed\n" + _FAILED + "It is closed\n", []).problem.count("closed") == 1


@pytest.mark.parametrize(
    "said",
    [
        "squeue: error: slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "sbatch: fatal: Could not establish a configuration source",
        "slurm_load_partitions: Socket timed out on send/recv operation",
    ],
)
def test_a_cluster_that_is_away_is_no_mistake_of_the_user(said: str) -> None:
    error = refusal(said, [])
    assert error.problem.startswith("SLURM cannot be reached: ")
    assert "slurm." not in error.remedy
