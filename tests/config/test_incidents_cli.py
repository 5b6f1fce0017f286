"""``resilient incidents``: what it shows, and what it says when there is nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from resilient.cli import main
from resilient.errors import ExitCode
from resilient.policy.decisions import LaunchRound, RecordIncident
from resilient.policy.events import Incident, Tier
from resilient.policy.failures import Failure, FailureClass
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import Journal

CODE = Failure(FailureClass.CODE, "KeyError: '#'", "KeyError: '3'")


def make_run(directory: Path, name: str, *, files: bool = True) -> RunPaths:
    """A run with two incidents; of the second there is evidence."""
    paths = RunPaths.of(directory, name)
    paths.create()
    journal = Journal(paths.journal)
    killed = Failure(FailureClass.KILLED, "SIGKILL")
    journal.record("decision", RecordIncident(Incident(1, 0, 0, 5, killed, "relaunch")), 1.0)
    journal.record("decision", LaunchRound(1, 5, Tier.MEMORY), 2.0)
    journal.record("decision", RecordIncident(Incident(2, 1, 3, 7, CODE, "stop: worker error")), 3.0)
    journal.close()
    if files:
        place = paths.incident(2)
        place.mkdir(parents=True)
        body = {"number": 2, "class": "code or configuration", "message": "KeyError: '3'", "rank": 3, "step": 7}
        body |= {"round": 1, "remedy": "stop: worker error", "evidence": ["KeyError: '3'"], "others": ["rank 1: echo"]}
        (place / "incident.json").write_text(json.dumps(body))
        (place / "rank-00003.log").write_text("Traceback\nKeyError: '3'\n")
    return paths


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "runs"


def test_all_incidents_of_a_run_are_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(runs, "demo")
    assert main(["incidents", "demo"]) == 0
    text = capsys.readouterr().out
    for words in ("killed: SIGKILL", "step 5 (memory)", "KeyError", "resilient incidents demo N"):
        assert words in text


def test_one_is_shown_with_its_evidence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_run(runs, "demo")
    assert main(["incidents", "demo", "2"]) == 0
    text = capsys.readouterr().out
    for words in (
        "code or configuration",
        "rank 3, after step 7, round 1",
        "stop: worker error",
        "rank 1: echo",
        str(paths.incident(2)),
        "the end of rank-00003.log",
        "    KeyError: '3'",
    ):
        assert words in text


def test_one_without_files_is_shown_from_the_journal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(runs, "demo")
    assert main(["incidents", "demo", "1"]) == 0
    text = capsys.readouterr().out
    assert "SIGKILL" in text
    assert "none are kept" in text


def test_json_has_stable_keys(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_run(runs, "demo")
    assert main(["incidents", "demo", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [row["number"] for row in body["incidents"]] == [1, 2]
    assert [row["evidence"] for row in body["incidents"]] == [None, str(paths.incident(2))]
    assert main(["incidents", "demo", "2", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["class"], one["signature"], one["others"]) == (
        "code or configuration",
        CODE.signature,
        ["rank 1: echo"],
    )


def test_without_a_name_it_is_the_latest_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = make_run(runs, "old"), make_run(runs, "new")
    for path, when in ((old, 1000), (new, 2000)):
        os.utime(path.journal.parent, (when, when))
    assert main(["incidents", "2"]) == 0
    assert "of run new" in capsys.readouterr().out
    assert main(["incidents", "run=old", "n=2"]) == 0
    assert "of run old" in capsys.readouterr().out
    assert main(["incidents", str(old.root), "2"]) == 0
    assert "of run old" in capsys.readouterr().out
    assert main(["incidents", "dir=runs", "old"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["demmo"], ExitCode.NOT_FOUND, "did you mean demo?"),
        (["demo", "9"], ExitCode.NOT_FOUND, "no incident 9"),
        (["demo", "first"], ExitCode.USAGE, "one word too many"),
        (["demo", "n=x"], ExitCode.USAGE, "no number"),
        (["dirr=x"], ExitCode.USAGE, "did you mean dir=?"),
        (["dir=elsewhere"], ExitCode.NOT_FOUND, "there are no runs"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_hint(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: ExitCode, said: str
) -> None:
    make_run(runs, "demo")
    assert main(["incidents", *words]) == code
    assert said in capsys.readouterr().err


def test_a_run_without_incidents_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunPaths.of(runs, "quiet").create()
    assert main(["incidents", "quiet"]) == 0
    assert "has had no incident" in capsys.readouterr().out
