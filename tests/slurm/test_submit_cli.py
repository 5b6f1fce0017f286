"""``resilient submit`` as a command, where there is no SLURM: what is checked before one is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from resilient.config import load
from resilient.errors import ExitCode
from resilient.protocol.distrusted import FORMAT, Distrusted
from resilient.supervisor.status import Status

_CONFIGURATION = """\
worker: {script: train.py}
train: {lr: 1.0, seed: 0, note: ''}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    (directory / "conf").mkdir(parents=True)
    (directory / "conf" / "mine.yaml").write_text(_CONFIGURATION)
    (directory / "train.py").write_text("print('hello')\n")
    return directory


def submit(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Where no command of SLURM can be found."""
    command = [sys.executable, "-m", "resilient.cli", "submit", *arguments]
    environment = {**os.environ, "PATH": str(directory)}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def dry(directory: Path, *arguments: str) -> dict[str, object]:
    done = submit(directory, *arguments, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def text(directory: Path, *arguments: str) -> list[str]:
    return str(dry(directory, *arguments)["text"]).splitlines()


def test_a_dry_run_prints_the_batch_file_and_makes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = submit(project, "conf=mine", "--dry-run", "slurm.partition=gpu,cpu", "slurm.time=1-00:00:00")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "\n#SBATCH --partition=gpu,cpu\n" in done.stdout
    assert "\n#SBATCH --time=1-00:00:00\n" in done.stdout
    assert sorted(project.rglob("*")) == before


def test_every_setting_has_its_line(project: Path) -> None:
    settings = {
        "partition": "gpu",
        "account": "me",
        "qos": "high",
        "time": "90",
        "gres": "gpu:a100:4",
        "mem": "64G",
        "constraint": "a100&nvlink",
        "exclude": "n[1-3],n7",
        "nodes": "1",
    }
    lines = text(
        project, "conf=mine", "slurm.cpus_per_task=8", *(f"slurm.{key}={value}" for key, value in settings.items())
    )
    for line in (
        *(f"#SBATCH --{key}={value}" for key, value in settings.items() if key != "constraint"),
        '#SBATCH --constraint="a100&nvlink"',
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --requeue",
        f"#SBATCH --output={project}/runs/mine/slurm/%j.log",
        "#SBATCH --open-mode=append",
        f"#SBATCH --chdir={project}",
    ):
        assert line in lines
    assert any(line.startswith("srun ") and "--cpus-per-task=8" in line for line in lines)


def test_other_options_of_sbatch_are_passed_on(project: Path) -> None:
    extra = "slurm.extra={mail-type: END, mail_user: me@x.org, exclusive: true, nice: 5, contiguous: false}"
    lines = text(project, "conf=mine", extra, "slurm.extra.job-name=a b", "slurm.extra.signal=TERM@90")
    for line in (
        "--mail-type=END",
        "--mail-user=me@x.org",
        "--exclusive",
        "--nice=5",
        "--signal=TERM@90",
        '--job-name="a b"',
    ):
        assert f"#SBATCH {line}" in lines
    assert not [line for line in lines if "contiguous" in line or "--job-name=mine" in line]


def test_a_job_that_is_not_to_come_back_is_not_requeued(project: Path) -> None:
    lines = text(project, "conf=mine", "slurm.requeue=never")
    assert "#SBATCH --no-requeue" in lines
    assert not [line for line in lines if "scontrol" in line]


def test_a_sweep_is_an_array_with_a_run_for_each_value(project: Path) -> None:
    found = dry(project, "conf=mine", "-m", "train.lr=1,2", "slurm.array=%1")
    runs = found["runs"]
    assert isinstance(runs, list)
    assert [(run["id"], run["task"]) for run in runs] == [("mine-train.lr=1", 0), ("mine-train.lr=2", 1)]
    assert found["file"] == str(project / "runs/mine/slurm/job.sbatch")
    assert "#SBATCH --array=0-1%1" in str(found["text"])
    assert (
        f"    1) configuration={project}/runs/mine-train.lr=2/slurm/config.yaml ;;" in str(found["text"]).splitlines()
    )


def test_an_array_has_a_run_for_each_index(project: Path) -> None:
    found = dry(project, "conf=mine", "slurm.array=0,4-6:2", "train.seed=${oc.env:SLURM_ARRAY_TASK_ID}")
    runs = found["runs"]
    assert isinstance(runs, list)
    assert [(run["id"], run["task"]) for run in runs] == [("mine-0", 0), ("mine-4", 4), ("mine-6", 6)]


def test_runs_that_are_finished_are_left_out(project: Path) -> None:
    for index in (0, 2):
        root = project / "runs" / f"mine-{index}"
        root.mkdir(parents=True)
        Status("ended", 5, 5, 0, exit_code=0).write(root / "status.json")
    found = dry(project, "conf=mine", "slurm.array=0-3")
    assert found["finished"] == ["mine-0", "mine-2"]
    assert "#SBATCH --array=1,3" in str(found["text"])
    done = submit(project, "conf=mine", "run.id=mine-0")
    assert (done.returncode, "finished already" in done.stdout) == (0, True)


def test_what_the_job_trains_is_what_was_checked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the job is started with gives the same configuration again, whatever is in it."""
    monkeypatch.chdir(project)
    hostile = "a 'b' \"c\" $(x) \\${y} % #\n${z: é"
    arguments = ["--a b", "1e-3", hostile, f"{hostile}\\"]
    first = load("mine", ["worker.exit_codes={3: stop}", "slurm.time=1:30:00"], arguments=arguments)
    assert first.tree["worker"]["args"] == arguments
    frozen = project / "config.yaml"
    frozen.write_text(first.to_yaml())
    again = load(str(frozen), [])
    assert again.tree == first.tree
    assert again.config == first.config


def test_machines_that_computed_wrongly_are_excluded_while_they_are_distrusted(project: Path) -> None:
    root = project / "runs" / "mine"
    root.mkdir(parents=True)
    until = {"n3": 4e9, "n2": 1.0, "n1": 4e9}
    nodes = [asdict(Distrusted(host, "computed wrong", 1, 0.0, end)) for host, end in until.items()]
    (root / "distrusted.json").write_text(json.dumps({"format": FORMAT, "nodes": nodes}))
    lines = text(project, "conf=mine", "slurm.exclude=n9")
    assert "#SBATCH --exclude=n9,n1,n3" in lines
    assert "# Machines on which this run was computed wrongly: n1, n3." in lines
    assert "#SBATCH --exclude=n1,n3" in text(project, "conf=mine")


def test_a_run_of_several_nodes_has_a_supervisor_on_each(project: Path) -> None:
    lines = text(project, "conf=mine", "slurm.nodes=2", "slurm.cpus_per_task=3")
    assert "#SBATCH --nodes=2" in lines
    assert "#SBATCH --ntasks-per-node=1" in lines
    assert "#SBATCH --no-kill" not in lines, "the run cannot go on without one of them"
    (step,) = [line for line in lines if line.startswith("srun")]
    assert step == (
        "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 --cpu-bind=none --cpus-per-task=3 \\"
    )


@pytest.mark.parametrize("settings", [["nodes=2:3"], ["slurm.nodes=3", "group.least=2"]])
def test_a_job_outlives_one_of_its_nodes_where_the_run_can(project: Path, settings: list[str]) -> None:
    lines = text(project, "conf=mine", *settings)
    assert "#SBATCH --nodes=3" in lines
    assert "#SBATCH --no-kill" in lines
    (step,) = [line for line in lines if line.startswith("srun")]
    assert "--no-kill" in step
    assert "--ntasks=3" in step


def test_the_configuration_is_checked_against_the_one_the_run_was_begun_with(project: Path) -> None:
    root = project / "runs" / "mine"
    root.mkdir(parents=True)
    (root / "config.yaml").write_text(load(str(project / "conf" / "mine.yaml"), []).to_yaml())
    done = submit(project, "conf=mine", "train.lr=2", "--dry-run")
    assert done.returncode == ExitCode.CONFIG_DRIFT
    assert "train.lr: 1.0 → 2" in done.stderr
    assert submit(project, "conf=mine", "slurm.partition=x", "console.lines_per_second=9", "--dry-run").returncode == 0
    assert submit(project, "conf=mine", "train.lr=2", "run.allow_drift=true", "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["conf=nothing"], ExitCode.CONFIG, "conf=nothing"),
        (["conf=mine", "slurm.partitoin=x"], ExitCode.CONFIG, "did you mean slurm.partition?"),
        (["conf=mine", "worker.script=nope.py"], ExitCode.NO_ENTRY_POINT, "nope.py"),
        (["conf=mine", "train.lr=1,2"], ExitCode.CONFIG, "--multirun"),
        (["conf=mine", "slurm.nodes=2", "nodes=3"], ExitCode.CONFIG, "the other follows from it"),
        (["conf=mine", "slurm.nodes=0"], ExitCode.CONFIG, "slurm.nodes"),
        (["conf=mine", "slurm.time=soon"], ExitCode.CONFIG, "slurm.time=soon is no time"),
        (["conf=mine", "slurm.array=3-1"], ExitCode.CONFIG, "slurm.array=3-1"),
        (["conf=mine", "slurm.array=%4"], ExitCode.CONFIG, "has no indices"),
        (["conf=mine", "-m", "train.lr=1,2", "slurm.array=5-9"], ExitCode.CONFIG, "numbered by itself"),
        (["conf=mine", "slurm.account=a\nb"], ExitCode.CONFIG, "slurm.account"),
        (["conf=mine", "+slurm.extra.partition=x"], ExitCode.CONFIG, "set slurm.partition"),
        (["conf=mine", "+slurm.extra.wrap=id"], ExitCode.CONFIG, "up to resilient submit"),
        (["conf=mine", "+slurm.extra.signal=B:TERM@60"], ExitCode.CONFIG, "write TERM@300"),
        (["conf=mine", "+slurm.extra.signal=USR1@60"], ExitCode.CONFIG, "any signal but SIGTERM"),
        (["conf=mine", "+slurm.extra.mail-type=[a]"], ExitCode.CONFIG, "neither a text nor a number"),
        (["conf=mine", "run.dir=a\\b"], ExitCode.CONFIG, "backslash"),
        (["conf=mine"], ExitCode.SCHEDULER, "no squeue on this machine"),
        (["train.lr=1"], ExitCode.USAGE, "exactly one conf=NAME"),
    ],
)
def test_mistakes_end_with_their_exit_code_and_leave_nothing(
    project: Path, arguments: list[str], code: ExitCode, said: str
) -> None:
    before = sorted(project.rglob("*"))
    done = submit(project, *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(project.rglob("*")) == before
