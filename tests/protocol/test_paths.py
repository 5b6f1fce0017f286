"""Where everything of a run lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from resilient.errors import ConfigurationError, RunDirectoryNotWritable
from resilient.protocol.paths import RunPaths, hostname


def _paths_of(paths: RunPaths) -> list[Path]:
    return [
        paths.config,
        paths.status,
        paths.lock,
        paths.journal,
        paths.metrics,
        paths.snapshots,
        paths.latest,
        paths.snapshot(1234),
        paths.round_logs(3),
        paths.log(3, 0),
        paths.error_file(3, 0),
    ]


def test_everything_of_a_run_lies_in_its_directory(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "bytelm")
    assert paths.root == tmp_path / "bytelm"
    assert paths.run_id == "bytelm"
    found = _paths_of(paths)
    assert all(path.is_relative_to(paths.root) for path in found)
    assert len(set(found)) == len(found)


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "x")
    assert paths.snapshot(1234).relative_to(paths.root) == Path("snapshots/step-000001234")
    assert paths.log(3, 0).relative_to(paths.root) == Path("logs/round-0003/rank-00000.log")
    assert paths.journal.relative_to(paths.root) == Path(f"journal/{hostname()}.jsonl")


def test_a_relative_directory_is_pinned_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = RunPaths.of("runs", "x")
    monkeypatch.chdir("/")
    assert paths.root == tmp_path / "runs" / "x"


def test_a_run_id_cannot_lead_out_of_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        RunPaths.of(tmp_path, "../elsewhere")


def test_the_name_in_shared_memory_is_stable_and_tells_runs_apart(tmp_path: Path) -> None:
    names = {RunPaths.of(tmp_path / parent, run).memory_name for parent in ("a", "b") for run in ("x", "y")}
    assert len(names) == 4
    assert RunPaths.of(tmp_path / "a", "x").memory_name in names
    assert all("/" not in name for name in names)


def test_creating_twice_is_creating_once_and_leaves_no_probe(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path / "deep" / "runs", "x")
    paths.create()
    paths.create()
    assert {path.name for path in paths.root.iterdir()} == {"snapshots", "journal", "metrics", "logs"}


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the directory should be")
    with pytest.raises(RunDirectoryNotWritable, match="runs/x") as raised:
        RunPaths.of(tmp_path / "runs", "x").create()
    assert "run.dir" in raised.value.remedy


def test_a_run_has_an_identity_that_ends_with_its_directory(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "x")
    paths.create()
    identity = paths.identity()
    assert identity
    assert RunPaths.of(tmp_path, "x").identity() == identity
    shutil.rmtree(paths.root)
    paths.create()
    assert paths.identity() != identity


def test_the_last_round_is_found_by_its_logs(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "x")
    assert paths.last_round() == -1
    paths.create()
    assert paths.last_round() == -1
    for number in (0, 3, 12):
        paths.round_logs(number).mkdir()
    (paths.root / "logs" / "round-99.old").mkdir()
    assert paths.last_round() == 12


def test_a_machine_may_stand_for_several_nodes_with_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths.of(tmp_path, "run")
    monkeypatch.setenv("RESILIENT_NODE", "n1")
    first = (paths.lock, paths.journal, paths.metrics, paths.memory_name, paths.fresh(paths.lineage))
    monkeypatch.setenv("RESILIENT_NODE", "n2")
    second = (paths.lock, paths.journal, paths.metrics, paths.memory_name, paths.fresh(paths.lineage))
    assert not set(first) & set(second)
    assert first[1].name == "n1.jsonl"


def test_what_a_killed_supervisor_had_not_put_in_its_place_yet_is_removed_and_no_other_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths.of(tmp_path, "a-run")
    paths.create()
    monkeypatch.setenv("RESILIENT_NODE", "b.a")
    others = paths.fresh(paths.lineage)
    others.touch()
    monkeypatch.setenv("RESILIENT_NODE", "a")
    paths.lineage.touch()
    for path in (
        paths.root / "identity",
        paths.config,
        paths.status,
        paths.lineage,
        paths.distrusted,
        paths.step_times,
    ):
        paths.fresh(path).touch()
    paths.clear_fresh()
    assert {path for path in paths.root.iterdir() if path.is_file()} == {others, paths.lineage}
