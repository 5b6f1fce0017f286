"""Real failures of real runs, and the evidence they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.errors import ExitCode
from tests.run.harness import RunCase, Workspace


def _script(workspace: Workspace, text: str) -> str:
    script = workspace.directory / "failing.py"
    script.write_text(text)
    return f"worker.script={script}"


def _incident(case: RunCase, number: int) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((case.paths.incident(number) / "incident.json").read_text())
    return body


def test_a_key_error_at_once_stops_with_one_diagnosis_and_its_evidence(workspace: Workspace) -> None:
    script = "import resilient\nprint('about to fail')\nsettings = {}\nsettings['lr']\n"
    case = workspace.run("key", _script(workspace, script), "+worker.env.WANDB_API_KEY=hunter2")
    assert case.finish() == ExitCode.WORKER_ERROR
    assert len(case.journal("LaunchRound")) == 1
    output = case.output()
    for words in ("KeyError: 'lr'", "rank 0 after step 0", "no relaunch", "Correct the script", "incidents key 1"):
        assert words in output
    body = _incident(case, 1)
    assert (body["class"], body["rank"], body["remedy"]) == ("code or configuration", 0, "stop: worker error")
    place = case.paths.incident(1)
    assert "about to fail" in (place / "rank-00000.log").read_text()
    assert json.loads((place / "environment.json").read_text())["versions"]["torch"]
    assert not any(b"hunter2" in path.read_bytes() for path in place.iterdir())
    shown = subprocess.run(
        [sys.executable, "-m", "resilient.cli", "incidents", str(case.paths.root), "1"],
        cwd=workspace.directory,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "KeyError: 'lr'" in shown.stdout


RECORDED = """
import os
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    raise ConnectionResetError(104, "Connection reset by peer")

try:
    main()
except ConnectionResetError:
    os._exit(1)  # as a script that is torn down hard: nothing but torch's error file tells what it was
"""


def test_what_torchs_record_wrote_names_the_failure(workspace: Workspace) -> None:
    case = workspace.run(
        "record", _script(workspace, RECORDED), "restarts.max_failures=1", "+restarts.class_waits.transient_io=0"
    )
    assert case.finish() == ExitCode.BUDGET_SPENT, case.output()
    assert case.incidents() == ["transient I/O"]
    assert "Connection reset by peer" in _incident(case, 1)["message"]
    assert (case.paths.incident(1) / "rank-00000.torch-error.json").is_file()


@pytest.fixture
def narrow() -> Iterator[Path]:
    """A memory cgroup of 1200 MiB, of either version."""
    limit, name = 1200 << 20, "resilient-test"
    for parent, file in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        place = parent / f"{name}-{os.getpid()}"
        if not (parent / "cgroup.procs").is_file():
            continue
        try:
            place.mkdir()
        except OSError as error:
            pytest.skip(f"needs the right to make a cgroup: {error}")
        try:
            (place / file).write_text(str(limit))
            yield place
        except OSError as error:
            pytest.skip(f"the memory controller cannot be used here: {error}")
        finally:
            place.rmdir()
        return
    pytest.skip("there is no memory cgroup")


def test_a_worker_that_the_kernel_kills_for_memory_is_told_from_one_that_is_killed(
    workspace: Workspace, narrow: Path
) -> None:
    script = _script(workspace, "import time\ntime.sleep(0.3)\nheld = b'x' * (3 << 30)\n")
    case = workspace.run("oom", script)
    running = case.start()
    (narrow / "cgroup.procs").write_text(
        str(running.process.pid)
    )  # before it has imported what it starts its helpers with
    assert running.wait() == ExitCode.WORKER_ERROR, case.output()
    workspace.wait_until_alone()
    assert case.incidents() == ["host out of memory"] * 2
    assert len(case.journal("LaunchRound")) == 2, "tried once again, and no more"
    body = _incident(case, 2)
    assert body["exit_codes"] == {"0": -9}
    assert any("rose by 1 in the cgroup" in line for line in body["evidence"])
    header, *rows = (case.paths.incident(2) / "memory.csv").read_text().splitlines()
    assert header == "seconds,available,cgroup_used,cgroup_limit,rank_0"
    assert rows
    assert "Give the job more memory" in case.output()
