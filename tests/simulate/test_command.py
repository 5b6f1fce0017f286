"""``resilient simulate``: overrides, text, JSON and plots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resilient import cli
from resilient.cli import main
from resilient.errors import ExitCode
from resilient.simulate.overrides import planned
from resilient.simulate.presets import PRESETS

SMALL = ["gpus=64", "days=5", "failures_per_gpu_hour=2e-3"]


def test_overrides_change_the_preset_whichever_comes_first() -> None:
    plan = planned(["gpus=100_000", "cluster=llama3", "restarts.per_class.hardware=9", "hang.min_seconds=60"])
    assert (plan.gpus, plan.parameters, plan.hang.min_seconds) == (100_000, PRESETS["llama3"].parameters, 60.0)
    assert plan.restarts.per_class == {"hardware": 9}
    assert planned(["days=1e1", "blocking=true"]).days == 10.0


@pytest.mark.parametrize(
    ("override", "code", "told"),
    [
        ("cluster=lama3", ExitCode.CONFIG, "did you mean llama3?"),
        ("gpu=3", ExitCode.CONFIG, "did you mean gpus?"),
        ("hang.min_second=3", ExitCode.CONFIG, "did you mean min_seconds?"),
        ("restarts.per_class.hardwar=3", ExitCode.CONFIG, "did you mean hardware?"),
        ("gpus=many", ExitCode.CONFIG, "must be of type int"),
        ("gpus=0", ExitCode.CONFIG, "more than 0"),
        ("step_seconds=0", ExitCode.CONFIG, "more than 0"),
        ("hang=3", ExitCode.CONFIG, "is a section"),
    ],
)
def test_a_wrong_override_is_told(override: str, code: ExitCode, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", override]) == code
    assert told in capsys.readouterr().err


def test_json_says_everything_and_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *SMALL, "--json", "--sweep", "--seeds", "1"]) == ExitCode.FINISHED
    first = capsys.readouterr().out
    assert main(["simulate", *SMALL, "--json", "--sweep", "--seeds", "1"]) == ExitCode.FINISHED
    assert capsys.readouterr().out == first
    found = json.loads(first)
    assert sum(found["seconds"].values()) == pytest.approx(5 * 86400)
    assert found["goodput"] == pytest.approx(found["seconds"]["training"] / (5 * 86400))
    assert found["sweep"]["best"] in [trial["seconds"] for trial in found["sweep"]["tried"]]
    assert found["plan"]["gpus"] == 64


def test_the_text_names_the_costliest_cause_and_how_a_run_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *SMALL, "cluster=llama3", "days=54", "gpus=16384", "failures_per_gpu_hour=1.97e-5"]) == 0
    text = capsys.readouterr().out
    assert "faulty GPU" in text
    assert "published: 419 interruptions" in text
    assert main(["simulate", *SMALL, "bug_step=100"]) == 0
    assert f"exit code {ExitCode.CRASH_LOOP.value}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plan.svg", "plan.png"])
def test_a_plot_is_drawn(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / name
    assert main(["simulate", *SMALL, "--sweep", "--seeds", "1", "--plot", str(target)]) == ExitCode.FINISHED
    begins = {"svg": b"<?xml", "png": b"\x89PNG"}[target.suffix[1:]]
    assert target.read_bytes().startswith(begins)
    assert target.stat().st_size > 10_000


def test_a_plot_that_cannot_be_drawn_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *SMALL, "--plot", "plan.txt"]) == ExitCode.USAGE
    assert ".svg" in capsys.readouterr().err
    assert main(["simulate", *SMALL, "--plot", str(tmp_path / "absent" / "plan.svg")]) == ExitCode.NOT_WRITABLE


@pytest.mark.parametrize(("command", "theirs"), [("train", set()), ("simulate", {"resilient.simulate.command"})])
def test_a_command_loads_what_it_needs(command: str, theirs: set[str]) -> None:
    """A run that starts does not wait for what draws plots, and nobody for other commands."""
    script = f"import sys; from resilient import cli; cli._parse([{command!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert loaded & {*cli._MODULES.values()} == theirs
    assert not {"resilient.simulate.engine", "resilient.simulate.answer", "matplotlib", "torch"} & loaded
