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


def test_help_lists_the_exit_codes(tmp_path: Path) -> None:
    done = resilient(tmp_path, "--help")
    assert all(code.description in " ".join(done.stdout.split()) for code in ExitCode)
    assert "conf=demo" in resilient(tmp_path, "train", "--help").stdout


def test_readme_lists_the_exit_codes() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} | {code.description} |" in readme
