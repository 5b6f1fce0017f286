"""The command line, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resilient.errors import ExitCode


def resilient(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resilient.cli", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_cfg_prints_the_composed_configuration_and_starts_nothing(tmp_path: Path) -> None:
    done = resilient(tmp_path, "train", "conf=demo", "--cfg", "job", "train.lr=3")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["train"]["lr"] == 3
    assert list(tmp_path.iterdir()) == []


def test_cfg_with_multirun_prints_every_job(tmp_path: Path) -> None:
    done = resilient(tmp_path, "train", "--multirun", "conf=demo", "train.lr=1,2", "--cfg", "job")
    assert done.returncode == 0
    assert done.stdout.count("worker:") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], ExitCode.USAGE, "COMMAND"),
        (["train"], ExitCode.USAGE, "exactly one conf=NAME"),
        (["train", "conf=demo", "conf=demo"], ExitCode.USAGE, "exactly one conf=NAME"),
        (["train", "conf=demo", "--unknown"], ExitCode.USAGE, "--unknown"),
        (["train", "conf=nothing"], ExitCode.CONFIG, "conf=nothing"),
        (["train", "conf=demo", "worker.script=nope.py"], ExitCode.NO_ENTRY_POINT, "nope.py"),
        (["train", "conf=demo", "worker.script=''", "worker.module=nope_x.y"], ExitCode.NO_ENTRY_POINT, "nope_x"),
        (["train", "conf=demo", "from="], ExitCode.USAGE, "from=RUN:120"),
        (["train", "conf=demo", "from=a:1", "from=a:2"], ExitCode.USAGE, "more than once"),
        (["train", "conf=demo", "from=other:20"], ExitCode.NOT_FOUND, "no run other"),
        (["train", "conf=demo", "from=good"], ExitCode.CONFIG, "resilient rollback run=demo step=good"),
        (["train", "conf=demo", "from=other:20", "worker.script=nope.py"], ExitCode.NO_ENTRY_POINT, "nope.py"),
        (["rollback", "run=demo", "to=good"], ExitCode.NOT_FOUND, "no run demo"),
        (["train", "conf=demo", "run.dir=/proc/nowhere"], ExitCode.NOT_WRITABLE, "/proc/nowhere"),
    ],
)
def test_mistakes_end_with_their_exit_code_before_anything_is_made(
    tmp_path: Path, arguments: list[str], code: ExitCode, text: str
) -> None:
    done = resilient(tmp_path, *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_the_run_is_watched_by_is_written_down_although_it_is_no_drift(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("")
    command = ("train", "conf=script", "script=script.py", "worker.preload=[]")
    assert resilient(tmp_path, *command).returncode == 0
    config = tmp_path / "runs" / "script" / "config.yaml"
    assert yaml.safe_load(config.read_text())["divergence"]["margin"] == 10
    again = resilient(tmp_path, *command, "divergence.margin=33")
    assert again.returncode == 0, again.stderr
    assert yaml.safe_load(config.read_text())["divergence"]["margin"] == 33
    assert [path.name for path in config.parent.glob("config*")] == ["config.yaml"]


def test_help_says_how_to_go_back_and_how_to_fork(tmp_path: Path) -> None:
    assert "to=good" in resilient(tmp_path, "rollback", "--help").stdout
    assert "from=mine:good" in resilient(tmp_path, "train", "--help").stdout


def test_help_lists_the_exit_codes(tmp_path: Path) -> None:
    done = resilient(tmp_path, "--help")
    assert all(code.description in " ".join(done.stdout.split()) for code in ExitCode)
    assert "conf=demo" in resilient(tmp_path, "train", "--help").stdout


def test_readme_lists_the_exit_codes() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} | {code.description} |" in readme
