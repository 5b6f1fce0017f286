"""The command as people start it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resilient.doctor.check import Check, Result
from resilient.doctor.finding import note, ok, problem, warning
from resilient.doctor.report import as_json, render, summary
from resilient.errors import ExitCode
from tests.doctor.worlds import doctor

SCRIPT = "worker: {script: train.py}\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text(SCRIPT)
    (tmp_path / "train.py").write_text("")
    return tmp_path


def test_it_leaves_nothing_behind(place: Path) -> None:
    before = sorted(place.rglob("*"))
    code, found = doctor("conf=mine", "--only", "disk,configuration,memory", cwd=place)
    assert code in (0, ExitCode.WILL_NOT_WORK)
    assert "disk.speed" in found
    assert sorted(place.rglob("*")) == before


def test_without_a_configuration_the_machine_alone_is_looked_at(place: Path) -> None:
    code, found = doctor("--only", "configuration,clock", cwd=place)
    assert code == 0
    assert {each["level"] for name, each in found.items() if name.startswith("configuration")} == {"note"}
    assert found["clock.monotonic"]["level"] == "ok"


def test_a_configuration_that_cannot_be_used_is_a_finding(place: Path) -> None:
    code, found = doctor("conf=mine", "snapshot.every_step=5", "--only", "configuration,clock", cwd=place)
    assert code == ExitCode.WILL_NOT_WORK
    assert found["configuration.loads"]["level"] == "problem"
    assert "did you mean snapshot.every_steps" in found["configuration.loads"]["next"]
    assert found["clock.wall"]["level"] == "ok"


def test_a_run_id_that_cannot_be_one_is_a_finding(place: Path) -> None:
    code, found = doctor("conf=mine", "run.id='../up'", "--only", "configuration", cwd=place)
    assert (code, found["configuration.loads"]["level"]) == (ExitCode.WILL_NOT_WORK, "problem")


def test_a_missing_script_is_a_problem(place: Path) -> None:
    code, found = doctor("conf=mine", "worker.script=tran.py", "--only", "configuration.script", cwd=place)
    assert code == ExitCode.WILL_NOT_WORK
    assert "did you mean train.py?" in found["configuration.script"]["next"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--only", "disc"], "did you mean disk?"),
        (["run.dir=/x"], "exactly one conf=NAME"),
        (["conf=mine", "conf=other"], "exactly one conf=NAME"),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(place: Path, arguments: list[str], hint: str) -> None:
    command = [sys.executable, "-m", "resilient.cli", "doctor", *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert hint in done.stderr


def test_sigterm_ends_it_in_good_order(place: Path) -> None:
    """While a check waits for an nvidia-smi that hangs, with its trial directory there."""
    smi = place / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f"#!/bin/sh\necho $$ > {place}/pid\nexec sleep 600\n")
    smi.chmod(0o755)
    environment = {**os.environ, "PATH": f"{smi.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "resilient.cli", "doctor", "--only", "gpu.driver"]
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL) as running:
        while not (place / "pid").exists() or not (place / "pid").read_text().strip():
            time.sleep(0.01)
        running.terminate()
        assert running.wait(60) == 128 + signal.SIGTERM
    pid = int((place / "pid").read_text())
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    assert not list(place.glob(".resilient*"))


def test_nothing_of_torch_is_imported(place: Path) -> None:
    script = "import sys, resilient.doctor.command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- what is printed

RESULTS = [
    Result(Check("a.problem", "", lambda _world: ok("")), problem("it is broken", "mend it")),
    Result(Check("b.note", "", lambda _world: ok("")), note("it is green")),
    Result(Check("c.warning", "", lambda _world: ok("")), warning("it is slow", "wait")),
    Result(Check("d.ok", "", lambda _world: ok("")), ok("it works")),
]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("out", [io.StringIO(), _Terminal()], ids=["lines", "table"])
def test_the_worst_comes_last_and_a_summary_after_it(out: io.StringIO) -> None:
    render(RESULTS, out)
    text = out.getvalue()
    places = [text.index(word) for word in ("it works", "it is green", "it is slow", "it is broken", "4 checks")]
    assert places == sorted(places)
    assert "mend it" in text


def test_the_summary_counts() -> None:
    assert summary(RESULTS) == "4 checks: 1 problem, 1 warning, 1 note. What is called a problem will not work."
    assert summary(RESULTS[1:2]) == "1 check: 1 note. Nothing stands in the way."
    assert summary(RESULTS[3:]) == "1 check: all is well."


def test_json_has_stable_keys() -> None:
    body = json.loads(as_json(RESULTS))
    assert (body["version"], body["worst"]) == (1, "problem")
    assert body["findings"][0] == {
        "check": "a.problem",
        "level": "problem",
        "sentence": "it is broken",
        "next": "mend it",
    }
