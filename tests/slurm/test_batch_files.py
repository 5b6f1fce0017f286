"""The batch files in ``slurm/``, as people copy them: each is taken by a real SLURM, and does what it says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from resilient.supervisor.status import Status
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Workspace
from tests.slurm.cluster import Cluster

FILES = sorted((Path(__file__).parents[2] / "slurm").glob("*.sbatch"))
_RESILIENT = f'#!/bin/bash\nexec {sys.executable} -m resilient "$@"\n'
# In the place of a container: what is in it finds no command of SLURM.
_CONTAINER = """#!/bin/bash
[ "$1" = exec ] && [ -f "$2" ] || exit 64
shift 2
export PATH={programs}
exec "$@"
"""


@dataclass
class Copies:
    """A directory with copies of the batch files and ``conf/mine.yaml``, and an environment with `resilient` in it."""

    cluster: Cluster
    workspace: Workspace

    def submit(self, name: str, *options: str) -> str:
        """Submit a copy; returns the job's id."""
        directory = self.workspace.directory
        file = directory / f"{name}.sbatch"
        return self.cluster.call("sbatch", "--parsable", *options, str(file), cwd=directory).strip()

    def wait(self) -> None:
        self.cluster.wait_until(lambda: not self.cluster.jobs(), "all jobs to be over")

    def log(self, name: str) -> str:
        return (self.workspace.directory / name).read_text()

    def case(self, run_id: str) -> RunCase:
        return self.workspace.run(run_id)


@pytest.fixture
def copies(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    workspace = make_workspace(tmp_path)
    conf = (tmp_path / "conf" / "small.yaml").read_text()
    slow = conf.replace("step_seconds: 0.01", "step_seconds: 0.05\n  seed: 0")
    assert slow != conf
    (tmp_path / "conf" / "mine.yaml").write_text(slow)
    for file in FILES:
        shutil.copy(file, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("resilient", _RESILIENT), ("apptainer", _CONTAINER.format(programs=programs))):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "mine.sif").touch()
    path = f"{programs}:{cluster.environment['PATH']}"
    with_programs = {**cluster.environment, "PATH": path, "IMAGE": str(programs / "mine.sif")}
    monkeypatch.setattr(cluster, "environment", with_programs)
    yield Copies(cluster, workspace)
    cluster.clear()  # with the environment in which the jobs began


def _finished(case: RunCase) -> bool:
    status = Status.read(case.paths.status)
    return status is not None and status.finished


def test_there_is_a_file_for_each_way() -> None:
    assert [file.stem for file in FILES] == ["array", "container", "multi-node", "single-node"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_batch_file_avoids_the_known_mistakes(file: Path) -> None:
    text = file.read_text()
    lines = text.splitlines()
    several = file.stem == "multi-node"
    for option in ("--requeue", "--open-mode=append", "--ntasks-per-node=1", f"--nodes={2 if several else 1}"):
        assert f"#SBATCH {option}" in lines
    assert ("--kill-on-bad-exit=0" if several else "srun --ntasks=1") in text
    assert 'if [ "$code" -eq 75 ]; then\n    scontrol requeue "$SLURM_JOB_ID"\nfi\nexit "$code"\n' in text
    assert not re.search(r"^#SBATCH --signal=(?!TERM@)", text, re.MULTILINE)
    first = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if "#SBATCH" in line]  # SLURM would not see it


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_batch_file_is_taken(copies: Copies, file: Path) -> None:
    copies.submit(file.stem, "--test-only", "--partition=low")
    copies.submit(file.stem, "--test-only", "--partition=low,high", "--mem=1G", "--time=30")


def test_the_one_for_a_single_node_trains_to_the_end(copies: Copies) -> None:
    job = copies.submit("single-node", "--partition=low")
    copies.wait()
    assert copies.cluster.state(job) == "COMPLETED", copies.log(f"mine-{job}.log")
    assert _finished(copies.case("mine"))


def test_the_one_for_several_nodes_trains_on_both(copies: Copies) -> None:
    job = copies.submit("multi-node", "--partition=low")
    copies.wait()
    log = copies.log(f"mine-{job}.log")
    assert copies.cluster.state(job) == "COMPLETED", log
    assert _finished(copies.case("mine"))
    assert "2 nodes train together" in log


def test_the_one_for_an_array_trains_a_run_for_each_task(copies: Copies) -> None:
    job = copies.submit("array", "--partition=low", "--array=0-1")
    copies.wait()
    for index in range(2):
        log = copies.log(f"mine-{job}_{index}.log")
        assert _finished(copies.case(f"mine-{index}")), log
        seed = re.search(r"^  seed: (.*)$", copies.case(f"mine-{index}").paths.config.read_text(), re.MULTILINE)
        assert seed is not None
        assert seed[1] == str(index)


@pytest.mark.parametrize("name", ["single-node", "container"])
def test_a_preempted_job_comes_back(copies: Copies, name: str) -> None:
    job, case = copies.submit(name, "--partition=low"), copies.case("mine")
    steps = case.paths.metrics
    copies.cluster.wait_until(lambda: steps.exists() and len(steps.read_text().splitlines()) > 12, "the run to be up")
    copies.cluster.submit("true", "-N2", "-p", "high", "-o", os.devnull)
    copies.wait()
    log = copies.log(f"mine-{job}.log")
    assert copies.cluster.state(job) == "COMPLETED", log
    assert copies.cluster.job(job)["Restarts"] == "1"
    assert log.count("run mine in ") == 2
    assert _finished(case)
    assert not case.conflicting_losses()
    assert len(case.losses()) == 60


def test_the_container_really_hides_slurm(copies: Copies) -> None:
    out = copies.workspace.directory / "out"
    script = "#!/bin/bash\napptainer exec $IMAGE resilient --version && apptainer exec $IMAGE scontrol --version"
    (copies.workspace.directory / "look.sbatch").write_text(script)
    job = copies.submit("look", "-o", str(out))
    copies.wait()
    assert copies.cluster.state(job) == "FAILED"
    assert "resilient" in out.read_text()
