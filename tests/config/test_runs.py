"""Which run is meant by a name or a path, the same in every command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resilient.errors import ConfigurationError, RunNotFound
from resilient.protocol.paths import RunPaths
from resilient.runs import JOURNAL, SNAPSHOTS, find_run, known_runs, latest_run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        RunPaths.of("runs", name).create()
    (tmp_path / "runs" / "no-run").mkdir()
    return tmp_path


def test_by_name_and_by_path(here: Path) -> None:
    assert find_run("one", Path("runs")) == RunPaths(here / "runs" / "one")
    for path in ("runs/one", "./runs/one/", str(here / "runs" / "one")):
        assert find_run(path, Path("elsewhere")) == RunPaths(here / "runs" / "one")
    assert list(known_runs(Path("runs"), SNAPSHOTS)) == ["one", "two"]
    assert known_runs(Path("elsewhere"), SNAPSHOTS) == {}


@pytest.mark.parametrize(
    ("named", "directory", "text"),
    [
        ("onne", "runs", "did you mean one?"),
        ("zzzzzz", "runs", "there are: one, two"),
        ("one", "elsewhere", "there are no runs; name their directory with dir="),
        ("runs/onne", "elsewhere", "did you mean one?"),
    ],
)
def test_an_unknown_one_names_the_nearest_or_those_there_are(here: Path, named: str, directory: str, text: str) -> None:
    with pytest.raises(RunNotFound) as caught:
        find_run(named, Path(directory))
    assert text in str(caught.value)


def test_a_name_that_no_run_can_have(here: Path) -> None:
    with pytest.raises(ConfigurationError):
        find_run("a b", Path("runs"))


def test_the_latest_is_the_one_whose_journal_was_begun_last(here: Path) -> None:
    os.utime(here / "runs" / "one" / "journal", (9e9, 9e9))
    assert latest_run(Path("runs")).run_id == "one"
    os.utime(here / "runs" / "two" / "journal", (9.1e9, 9.1e9))
    assert latest_run(Path("runs"), JOURNAL).run_id == "two"
    with pytest.raises(RunNotFound, match="no run at all"):
        latest_run(Path("elsewhere"))
