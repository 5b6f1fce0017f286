"""``resilient submit`` on a real SLURM: jobs that run, that are refused, and that are preempted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.faults import Target
from resilient.errors import ExitCode
from resilient.supervisor.status import Status
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster

HOSTILE = "a b'c $(touch pwned) `touch pwned`;# 50% %j &"


@dataclass
class Desk:
    """Where one submits from.

    :param workspace: with a configuration of a small training.
    """

    cluster: Cluster
    workspace: Workspace

    def submit(self, case: RunCase, *extra: str) -> subprocess.CompletedProcess[str]:
        conf = self.workspace.directory / "conf" / "small.yaml"
        command = [sys.executable, "-m", "resilient.cli", "submit", f"conf={conf}", f"run.id={case.run_id}"]
        directory = self.workspace.directory
        return subprocess.run(
            [*command, *case.settings, *extra],
            cwd=directory,
            env=dict(self.cluster.environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def job(self, case: RunCase, *extra: str) -> dict[str, Any]:
        """Submit a run that is taken; what was told of it."""
        done = self.submit(case, *extra, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def log(self, told: dict[str, Any], index: int = 0) -> str:
        return Path(told["runs"][index]["log"]).read_text()

    def assert_completed(self, told: dict[str, Any]) -> None:
        state = self.cluster.wait_for_state(told["job"], "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        assert state == "COMPLETED", self.log(told)


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Iterator[Desk]:
    yield Desk(cluster, make_workspace(tmp_path))
    assert not list(tmp_path.rglob("pwned"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run that nothing happened to, and that no SLURM has seen."""
    case = make_workspace(tmp_path_factory.mktemp("reference")).run("reference")
    assert case.finish() == 0, case.output()
    return case


def _wait_for_step(desk: Desk, case: RunCase, step: int) -> None:
    desk.cluster.wait_until(case.paths.status.exists, "the run to begin")
    Target(case.paths, 0).wait_for_step(step, alive=lambda: True)


def test_a_run_is_submitted_and_finished(desk: Desk, reference: RunCase) -> None:
    case = desk.workspace.run("mine")
    done = desk.submit(case, "slurm.partition=low", "slurm.time=10", "slurm.cpus_per_task=2")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    job = said[0].removeprefix("run mine is job ")
    assert desk.cluster.wait_for_state(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    case.assert_equal_to(reference)
    log = f"runs/mine/slurm/{job}.log"
    assert said[1:] == [
        "  batch file  runs/mine/slurm/job.sbatch",
        f"  log         {log}",
        f"  watch it    squeue --job={job}; tail -F {log}",
        f"  stop it     scancel {job}  (it keeps its last snapshot; the same command again goes on from there)",
    ]
    assert "run mine in " in (desk.workspace.directory / log).read_text()
    again = desk.submit(case)
    assert (again.returncode, again.stdout) == (0, "run mine is finished already. Another run.id begins a new run.\n")


def test_a_run_that_is_queued_or_running_is_not_submitted_again(desk: Desk, reference: RunCase) -> None:
    case = desk.workspace.run("mine", "train.step_seconds=0.1")
    held = desk.job(case, "slurm.extra={hold: true}")["job"]
    pending = desk.submit(case)
    assert pending.returncode == ExitCode.SCHEDULER
    assert f"the run mine has a job already: job {held} (pending)" in pending.stderr
    desk.cluster.call("scontrol", "release", held)
    _wait_for_step(desk, case, 12)
    running = desk.submit(case)
    assert running.returncode == ExitCode.SCHEDULER
    assert f"job {held} (running)" in running.stderr
    assert f"scancel {held}" in running.stderr

    desk.cluster.call("scancel", held)
    desk.cluster.wait_until(lambda: not desk.cluster.jobs(), "the job to be over")
    assert desk.cluster.state(held) == "CANCELLED"  # and not requeued, though the run could go on
    desk.assert_completed(desk.job(case))
    case.assert_equal_to(reference)


def test_the_configuration_may_change_while_a_job_waits(desk: Desk) -> None:
    case = desk.workspace.run("mine")
    told = desk.job(case, "slurm.extra={hold: true}")
    (desk.workspace.directory / "conf" / "small.yaml").write_text("worker: {script: something_else.py}\n")
    desk.cluster.call("scontrol", "release", told["job"])
    desk.assert_completed(told)


def test_a_dry_run_is_what_sbatch_takes(desk: Desk) -> None:
    case = desk.workspace.run("mine")
    done = desk.submit(case, "slurm.partition=low", "slurm.time=10", "slurm.mem=100M", "--dry-run")
    assert done.returncode == 0, done.stderr
    file = desk.workspace.directory / "dry.sbatch"
    file.write_text(done.stdout)
    desk.cluster.call("sbatch", "--test-only", str(file))
    assert not desk.cluster.jobs()
    assert not (desk.workspace.directory / "runs").exists()


def test_a_sweep_is_an_array_and_each_run_has_its_log(desk: Desk, reference: RunCase) -> None:
    cases = [desk.workspace.run(f"mine-train.ballast_mb={size}") for size in (0, 1)]
    told = desk.job(desk.workspace.run("mine"), "-m", "train.ballast_mb=0,1", "slurm.array=%2")
    assert [run["id"] for run in told["runs"]] == [case.run_id for case in cases]
    desk.cluster.wait_until(lambda: not desk.cluster.jobs(), "the array to be over")
    for index, case in enumerate(cases):
        status = Status.read(case.paths.status)
        assert status is not None
        assert status.finished, desk.log(told, index)
        assert f"run {case.run_id} in " in desk.log(told, index)
        assert Path(told["runs"][index]["log"]).parent == case.paths.slurm
    assert cases[0].losses() == reference.losses()


def test_what_users_write_reaches_slurm_and_the_run_as_it_is(desk: Desk, reference: RunCase) -> None:
    case = desk.workspace.run("mine")
    told = desk.job(case, f"run.dir={json.dumps(HOSTILE)}", f"slurm.extra={{comment: {json.dumps(HOSTILE)}}}")
    shown = desk.cluster.call("scontrol", "show", "job", told["job"])
    assert f"\n   Comment={HOSTILE} \n" in shown
    desk.assert_completed(told)
    root = desk.workspace.directory / HOSTILE / "mine"
    assert told["runs"][0]["log"] == f"{root}/slurm/{told['job']}.log"
    assert "run mine in " in desk.log(told)
    status = Status.read(root / "status.json")
    assert status is not None
    assert status.finished


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["slurm.partition=lo"], "slurm.partition: there is no partition lo, did you mean low?"),
        (["slurm.partition=brief", "slurm.time=10"], "slurm.time: a job in partition brief can have 00:05:00"),
        (["slurm.partition=brief", "slurm.account=guest"], "slurm.account: partition brief is for staff"),
        (["slurm.partition=shut"], "change slurm.partition"),
        (["slurm.constraint=gold"], "change slurm.constraint"),
        (["slurm.gres=gpu:1"], "change slurm.gres"),
        (["slurm.mem=9T"], "change slurm.mem"),
        (["slurm.exclude=n99"], "change slurm.exclude"),
        (["+slurm.extra.reservation=mine"], "change slurm.extra"),
        (["+slurm.extra.frobnicate=1"], "change slurm.extra (frobnicate)"),
    ],
)
def test_a_job_that_slurm_refuses_leaves_nothing(desk: Desk, settings: list[str], said: str) -> None:
    desk.cluster.call("scontrol", "create", "partitionname=brief", "nodes=n1", "maxtime=5", "allowaccounts=staff")
    desk.cluster.call("scontrol", "create", "partitionname=shut", "nodes=n1", "state=inactive")
    try:
        done = desk.submit(desk.workspace.run("mine"), *settings)
    finally:
        for name in ("brief", "shut"):
            desk.cluster.call("scontrol", "delete", f"partitionname={name}")
    assert done.returncode == ExitCode.SCHEDULER, done.stderr
    assert said in done.stderr
    assert "low" in done.stderr  # what there is instead
    assert not desk.cluster.jobs()
    assert not (desk.workspace.directory / "runs").exists()


def test_a_job_that_is_preempted_comes_back_and_finishes(desk: Desk, reference: RunCase) -> None:
    case = desk.workspace.run("mine", "train.step_seconds=0.1")
    told = desk.job(case, "slurm.partition=low")
    _wait_for_step(desk, case, 15)
    desk.cluster.submit("true", "-N2", "-p", "high", "-o", "/dev/null")
    desk.cluster.wait_until(lambda: desk.cluster.job(told["job"]).get("Restarts") == "1", "the job to be requeued")
    assert desk.submit(case).returncode == ExitCode.SCHEDULER  # it is in the queue again
    desk.assert_completed(told)
    case.assert_equal_to(reference)
    assert desk.log(told).count("run mine in ") == 2  # one log for both times
    assert desk.cluster.job(told["job"])["Restarts"] == "1"  # the supervisor and the batch file did not both requeue it
