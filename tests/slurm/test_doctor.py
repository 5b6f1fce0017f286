"""The doctor on a real cluster: from outside, in a step of srun, and below the shell of a batch script."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.slurm.cluster import GRACE_SECONDS, KILL_WAIT_SECONDS, Cluster

DOCTOR = (sys.executable, "-m", "resilient.cli", "doctor", "--json", "--only", "slurm")


def levels(shown: str) -> dict[str, Any]:
    return {each["check"].removeprefix("slurm."): each["level"] for each in json.loads(shown)["findings"]}


def in_job(cluster: Cluster, place: Path, words: str, *options: str) -> str:
    """What the doctor says in a job whose batch script starts it with these words before it."""
    out = place / "out"
    job = cluster.submit(f"{words} {shlex.join(DOCTOR)}", f"--output={out}", "--error=/dev/null", *options)
    cluster.wait_for_state(job, "COMPLETED", "FAILED")
    cluster.wait_until(out.exists, "the job's output")
    return out.read_text()


def test_from_outside(cluster: Cluster, tmp_path: Path) -> None:
    done = subprocess.run(
        DOCTOR, cwd=tmp_path, env=dict(cluster.environment), capture_output=True, text=True, check=True
    )
    assert levels(done.stdout) == {
        "reachable": "ok",
        "requeue": "ok",
        "preemption": "warning",
        "kill_wait": "warning",
        "bad_exit": "ok",
        "orphans": "note",
        "cores": "note",
        "shared": "warning",
    }
    assert f"has {GRACE_SECONDS} s" in done.stdout
    assert f"has {KILL_WAIT_SECONDS} s" in done.stdout


def test_in_a_step_of_srun(cluster: Cluster, tmp_path: Path) -> None:
    found = levels(in_job(cluster, tmp_path, "srun -n1", "--time=60", "--partition=high"))
    assert {name: found[name] for name in ("reachable", "requeue", "time", "signals", "preemption")} == {
        "reachable": "ok",
        "requeue": "ok",
        "time": "ok",
        "signals": "ok",
        "preemption": "ok",
    }


def test_below_the_shell_of_a_batch_script(cluster: Cluster, tmp_path: Path) -> None:
    found = levels(in_job(cluster, tmp_path, "", "--no-requeue", "--time=1"))
    assert (found["signals"], found["requeue"]) == ("warning", "problem")


def test_below_a_shell_with_a_trap(cluster: Cluster, tmp_path: Path) -> None:
    found = levels(in_job(cluster, tmp_path, "trap 'kill $!' TERM;"))
    assert found["signals"] == "note"
