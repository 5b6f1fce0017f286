"""``resilient snapshots …``, in this process, on snapshots committed for the purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.cli import main
from resilient.drill.faults import flip_bit
from resilient.errors import ExitCode
from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.lineage import Fork, Lineage, Rollback
from resilient.protocol import names
from resilient.protocol.lineage_file import write_lineage
from resilient.protocol.lock import Owner, RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage

LOSSES = {10: 3.0, 20: 1.0, 30: float("nan"), 40: 2.0}
KEYS = {
    "step", "state", "problem", "bytes", "created", "age_seconds", "metrics", "pinned", "kept", "removable", "round",
    "world_size", "identity", "parent", "parent_step", "versions", "sharded", "path", "tiers", "remote", "grade",
    "parent_run", "saved_bytes",
}  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """The run ``demo`` with four snapshots, each the parent of the next, in ./runs."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths.of("runs", "demo")
    paths.create()
    parent = None
    for step, loss in LOSSES.items():
        draft = Draft("demo", step, 0, {0: memoryview(bytes(5000))}, parent=parent, metrics={"loss": loss})
        parent = commit(Storage(), paths.snapshots, draft).identity
    paths.config.write_text("retention: {last: 1, best: 1, best_metric: loss}\nsnapshot: {memory_dir: ''}\n")
    return paths


@pytest.fixture
def supervised(paths: RunPaths) -> Iterator[None]:
    lock = RunLock(paths.lock, hostname())
    yield
    lock.release()


def snapshots(*arguments: str) -> int:
    return main(["snapshots", *arguments])


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert snapshots(*arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


# --- list and show


def test_list_as_json_says_everything_under_stable_keys(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, "list", "run=demo")
    assert found["run"] == "demo"
    rows = {row["step"]: row for row in found["snapshots"]}
    assert list(rows) == [10, 20, 30, 40]
    assert all(row.keys() == KEYS for row in rows.values())
    assert [row["kept"] for row in rows.values()] == [[], ["best"], [], ["newest", "last"]]
    assert [row["removable"] for row in rows.values()] == [True, False, True, False]
    assert [row["parent_step"] for row in rows.values()] == [None, 10, 20, 30]
    assert (rows[20]["bytes"], rows[20]["metrics"], rows[30]["metrics"]) == (5000, {"loss": 1.0}, {"loss": "nan"})


def test_list_as_a_table(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    (paths.snapshot(10) / "manifest.json").unlink()
    assert snapshots("list", "run=demo") == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "step size age tier state grade metrics pinned kept for parent"
    assert "corrupt" in lines[1]
    assert "the manifest" in lines[1]
    assert "5 KB" in lines[2]
    assert "loss=1" in lines[2]
    assert "best" in lines[2]
    assert "nothing: may go" in lines[3]
    assert lines[4].rstrip().endswith("30")


def test_other_settings_can_be_tried(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    rows = parsed(capsys, "list", "run=demo", "retention.best_mode=max", "retention.every_steps=30")["snapshots"]
    assert [row["kept"] for row in rows[:3]] == [["best"], [], ["every-steps"]]


@pytest.mark.parametrize(("step", "found"), [("step=10", 10), ("step=latest", 40), ("step=best", 20), ("", 40)])
def test_show(paths: RunPaths, capsys: pytest.CaptureFixture[str], step: str, found: int) -> None:
    arguments = ["show", "run=demo", *([step] if step else [])]
    assert [row["step"] for row in parsed(capsys, *arguments)["snapshots"]] == [found]
    assert snapshots(*arguments) == 0
    assert str(paths.snapshot(found)) in capsys.readouterr().out


def test_the_best_without_a_metric_asks_for_one(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    paths.config.unlink()
    assert snapshots("show", "run=demo", "step=best") == ExitCode.USAGE
    assert "retention.best_metric" in capsys.readouterr().err
    options = ("retention.best_metric=loss", "retention.best_mode=max")
    assert parsed(capsys, "show", "run=demo", "step=best", *options)["snapshots"][0]["step"] == 10


def test_a_run_without_snapshots_has_an_empty_list(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    RunPaths.of("runs", "new").create()
    assert parsed(capsys, "list", "run=new") == {"run": "new", "forked_from": None, "snapshots": []}
    assert snapshots("list", "run=new") == 0
    assert "no snapshots yet" in capsys.readouterr().out


# --- verify


def test_verify_passes_what_is_whole(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshots("verify", "run=demo") == 0
    assert capsys.readouterr().out.count("every byte is as it was written") == 4


def test_verify_names_file_and_place_and_leaves_it_where_it_is(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(paths.snapshot(20) / names.image_name(0), 777)
    assert snapshots("verify", "run=demo", "step=20") == ExitCode.NO_SNAPSHOT
    assert f"{names.snapshot_name(20)}/{names.image_name(0)}: checksum mismatch in bytes 0 to 5000" in (
        capsys.readouterr().out
    )
    results = parsed(capsys, "verify", "run=demo", code=67)["snapshots"]
    assert [result["ok"] for result in results] == [True, False, True, True]
    assert catalog.committed_steps(paths.snapshots) == (10, 20, 30, 40)


def test_verify_quarantines_when_it_is_told_to(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    (paths.snapshot(30) / names.image_name(0)).unlink()
    results = parsed(capsys, "verify", "run=demo", "--quarantine", code=67)["snapshots"]
    assert [result["quarantined_as"] for result in results] == ["", "", f"{names.snapshot_name(30)}.corrupt", ""]
    assert snapshots("verify", "run=demo") == 0
    rows = parsed(capsys, "list", "run=demo")["snapshots"]
    assert [(row["step"], row["state"]) for row in rows if row["problem"]] == [(30, "corrupt")]


# --- pins


def test_pin_and_unpin(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshots("pin", "run=demo", "step=10") == 0
    row = parsed(capsys, "show", "run=demo", "step=10")["snapshots"][0]
    assert (row["pinned"], row["kept"]) == (True, ["pinned"])
    assert parsed(capsys, "unpin", "run=demo", "step=10") == {"step": 10, "pinned": False}
    assert snapshots("unpin", "run=demo", "step=10") == ExitCode.NOT_FOUND
    assert "not pinned" in capsys.readouterr().err


def test_what_is_corrupt_cannot_be_pinned(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    (paths.snapshot(30) / names.image_name(0)).unlink()
    assert snapshots("pin", "run=demo", "step=30") == ExitCode.NO_SNAPSHOT
    assert names.image_name(0) in capsys.readouterr().err


# --- prune


def test_prune_and_what_it_would_do(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed(capsys, "prune", "run=demo", "--dry-run") == {"removed": [10, 30], "discarded": [], "dry_run": True}
    assert catalog.committed_steps(paths.snapshots) == (10, 20, 30, 40)
    assert snapshots("prune", "run=demo") == 0
    assert capsys.readouterr().out == "deleted: 10, 30\n"
    assert catalog.committed_steps(paths.snapshots) == (20, 40)
    assert snapshots("prune", "run=demo") == 0
    assert "keeps every snapshot" in capsys.readouterr().out


def test_a_run_without_configuration_is_not_pruned_by_guess(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.config.unlink()
    assert snapshots("prune", "run=demo") == ExitCode.USAGE
    assert "retention.last=3" in capsys.readouterr().err
    assert parsed(capsys, "prune", "run=demo", "retention.last=3")["removed"] == [10]


# --- the lineage


@pytest.fixture
def rolled_back(paths: RunPaths) -> Lineage:
    """The run has gone back from step 40 to 20, and 20 is known to be good."""
    known = KnownGood().taken(10, 0).taken(20, 0).alarmed(35, 0).recovered(38).taken(30, 0).advanced(40, 20)
    lineage = Lineage(known=known).rolled_back(Rollback(20, 45, 0))
    write_lineage(paths, lineage)
    return lineage


@pytest.mark.parametrize("aside", [False, True])
def test_what_a_rollback_has_discarded_is_in_the_json_and_in_the_list_of_all(
    paths: RunPaths, rolled_back: Lineage, capsys: pytest.CaptureFixture[str], aside: bool
) -> None:
    if aside:
        catalog.set_aside(Storage(), paths.snapshots, rolled_back)
    rows = parsed(capsys, "list", "run=demo")["snapshots"]
    assert [(row["step"], row["state"], row["grade"]) for row in rows] == [
        (10, "committed", "good"),
        (20, "committed", "good"),
        (30, "discarded", None),
        (40, "discarded", None),
    ]
    assert [row["kept"] for row in rows] == [["newest-good"], ["newest", "newest-good", "last", "best"], [], []]
    assert snapshots("list", "run=demo") == 0
    shown = capsys.readouterr().out
    assert "good" in shown.splitlines()[1]
    assert "discarded by" not in shown
    assert "and 2 that a rollback has discarded" in shown
    assert snapshots("list", "run=demo", "--all") == 0
    assert capsys.readouterr().out.count("discarded by") == 2


def test_the_newest_good_one_is_chosen_by_that_word(
    paths: RunPaths, rolled_back: Lineage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [row["step"] for row in parsed(capsys, "show", "run=demo", "step=good")["snapshots"]] == [20]
    assert parsed(capsys, "verify", "run=demo", "step=good")["snapshots"][0]["step"] == 20
    assert [row["step"] for row in parsed(capsys, "show", "run=demo")["snapshots"]] == [20]
    assert snapshots("pin", "run=demo", "step=30") == ExitCode.NOT_FOUND
    write_lineage(paths, Lineage())
    assert snapshots("show", "run=demo", "step=good") == ExitCode.NOT_FOUND
    assert "known to be good" in capsys.readouterr().err


def test_a_suspect_one_and_one_on_probation_are_told_apart(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    write_lineage(paths, Lineage(known=KnownGood().taken(20, 0).taken(30, 0).alarmed(25, 0)))
    rows = parsed(capsys, "list", "run=demo")["snapshots"]
    assert [row["grade"] for row in rows] == [None, "probation", "suspect", None]


def test_what_is_discarded_is_deleted_on_request(
    paths: RunPaths, rolled_back: Lineage, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog.set_aside(Storage(), paths.snapshots, rolled_back)
    assert parsed(capsys, "prune", "run=demo") == {"removed": [], "discarded": [], "dry_run": False}
    aside = [f"{names.snapshot_name(step)}.discarded-1" for step in (30, 40)]
    for dry_run in (True, False):
        options = ["--dry-run"] if dry_run else []
        found = parsed(capsys, "prune", "run=demo", "--discarded", *options)
        assert found == {"removed": [], "discarded": aside, "dry_run": dry_run}
    assert catalog.discarded(paths.snapshots) == []
    assert catalog.committed_steps(paths.snapshots) == (10, 20)


def test_where_the_lineage_cannot_be_read_it_is_said_and_nothing_is_deleted(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.lineage.write_text("{}")
    assert snapshots("prune", "run=demo") == 0
    assert "every snapshot is kept: what is known of rollbacks cannot be read" in capsys.readouterr().err
    assert catalog.committed_steps(paths.snapshots) == (10, 20, 30, 40)
    assert snapshots("list", "run=demo") == 0
    captured = capsys.readouterr()
    assert "cannot be read" in captured.err
    assert "lineage-unreadable" in captured.out


def test_a_fork_says_what_it_came_from(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    identity = "0a1b2c3d" * 4
    write_lineage(paths, Lineage(forked_from=Fork("other", 5, identity)))
    commit(Storage(), paths.snapshots, Draft("demo", 5, 0, {0: memoryview(bytes(100))}, parent=identity))
    found = parsed(capsys, "list", "run=demo")
    assert found["forked_from"] == ["other", 5, identity]
    assert [(row["parent_run"], row["parent_step"]) for row in found["snapshots"][:2]] == [("other", 5), (None, None)]
    assert snapshots("list", "run=demo") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "forked from step 5 of the run other, snapshot 0a1b2c3d"
    assert lines[2].rstrip().endswith("other:5")


# --- a run that is up


@pytest.mark.parametrize("arguments", [("prune",), ("prune", "--dry-run"), ("verify", "--quarantine")])
def test_what_would_get_in_its_way_is_refused(
    paths: RunPaths, supervised: None, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert snapshots(*arguments, "run=demo") == ExitCode.RUN_LOCKED
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert catalog.committed_steps(paths.snapshots) == (10, 20, 30, 40)


@pytest.mark.parametrize("arguments", [("list",), ("show",), ("verify",), ("pin", "step=10")])
def test_everything_else_works(paths: RunPaths, supervised: None, arguments: tuple[str, ...]) -> None:
    assert snapshots(*arguments, "run=demo") == 0


def test_pruning_does_not_hide_from_a_successor_that_its_predecessor_was_killed(paths: RunPaths) -> None:
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    paths.lock.write_text(json.dumps({"pid": int(killed.stdout), "started": 1.0, "host": hostname()}))
    assert snapshots("prune", "run=demo") == 0
    successor = RunLock(paths.lock, hostname())
    assert successor.predecessor == Owner(int(killed.stdout), 1.0, hostname())
    successor.release()


def test_a_snapshot_of_a_run_that_is_not_up_cannot_be_asked_for(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "run=demo"]) == ExitCode.NOT_RUNNING
    assert "nobody on this machine is running demo" in capsys.readouterr().err
    (paths.root / "supervisor-elsewhere.lock").write_text(json.dumps({"pid": 1, "started": 1.0, "host": "elsewhere"}))
    assert main(["snapshot", "run=demo"]) == ExitCode.NOT_RUNNING
    assert "ask on elsewhere" in capsys.readouterr().err


def test_a_request_that_nobody_answers_ends_in_time(
    paths: RunPaths, supervised: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "run=demo", "--timeout", "0.1"]) == ExitCode.TIMED_OUT
    assert "within 0.1 s" in capsys.readouterr().err


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("list",), ExitCode.USAGE, "run=ID is needed"),
        (("list", "demo"), ExitCode.USAGE, "did you mean run=demo?"),
        (("list", "run=demo", "stp=3"), ExitCode.USAGE, "did you mean step=?"),
        (("list", "run=dmeo"), ExitCode.NOT_FOUND, "did you mean demo?"),
        (("list", "run=demo", "dir=elsewhere"), ExitCode.NOT_FOUND, "dir="),
        (("list", "run=../demo"), ExitCode.CONFIG, "run.id"),
        (("show", "run=demo", "step=50"), ExitCode.NOT_FOUND, "10, 20, 30, 40"),
        (("show", "run=demo", "step=newest"), ExitCode.USAGE, "step=latest"),
        (("pin", "run=demo"), ExitCode.USAGE, "step=50"),
        (("list", "run=demo", "retention.lst=2"), ExitCode.CONFIG, "lst"),
        (("list", "run=demo", "retention.last=2.5"), ExitCode.CONFIG, "whole number"),
    ],
)
def test_mistakes_are_named_with_their_exit_code(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: ExitCode, text: str
) -> None:
    assert snapshots(*arguments) == code
    assert text in capsys.readouterr().err


def test_an_unknown_action_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        snapshots("lst")
    assert raised.value.code == ExitCode.USAGE
