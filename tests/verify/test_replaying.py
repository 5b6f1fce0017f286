"""The parts of a replay: the snapshot it begins with, when it has done enough, and what torch says in its logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resilient.errors import SnapshotNotFound
from resilient.policy.lineage import Lineage
from resilient.policy.verdict import VerdictKind
from resilient.protocol.paths import RunPaths
from resilient.verify.examination import examine_window
from resilient.verify.replaying import Replayer, covers, link, undetermined
from resilient.verify.window import Window

LOSS, OTHER = (0, "loss"), (1, "loss")
ORIGINAL = {step: {LOSS: 1.0, OTHER: 2.0} for step in (1, 2, 3)}


def test_enough_is_what_the_run_reported_of_every_rank() -> None:
    assert covers(ORIGINAL, ORIGINAL, 3)
    assert not covers({1: ORIGINAL[1], 2: {LOSS: 1.0}}, ORIGINAL, 2), "rank 1 is behind"
    assert covers({1: ORIGINAL[1], 2: {LOSS: 1.0}}, ORIGINAL, 1)
    assert not covers({}, ORIGINAL, 1)


def test_what_a_rank_does_not_report_any_more_is_not_waited_for() -> None:
    silent = {1: {LOSS: 1.0}, 2: ORIGINAL[2]}
    assert covers(silent, ORIGINAL, 1), "rank 1 has come to step 2 and said nothing of step 1"


def snapshot(folder: Path) -> Path:
    place = folder / "step-000000010"
    place.mkdir()
    for name in ("rank-00000.safetensors", "manifest.json"):
        (place / name).write_text(name)
    return place


def test_a_snapshot_is_linked_and_not_copied(tmp_path: Path) -> None:
    source = snapshot(tmp_path)
    link(source, tmp_path / "into" / source.name)
    found = tmp_path / "into" / source.name / "manifest.json"
    assert found.stat().st_ino == (source / "manifest.json").stat().st_ino


def test_where_the_filesystem_cannot_link_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("links are not allowed here")

    source = snapshot(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    link(source, tmp_path / "into")
    assert {path.name: path.read_text() for path in (tmp_path / "into").iterdir()} == {
        path.name: path.read_text() for path in source.iterdir()
    }


def test_a_snapshot_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFound, match="deleted meanwhile"):
        link(tmp_path / "step-000000010", tmp_path / "into")


def test_operations_are_named_once(tmp_path: Path) -> None:
    logs = tmp_path / "logs" / "round-0000"
    logs.mkdir(parents=True)
    text = "UserWarning: {} does not have a deterministic implementation, but you set 'torch.use_deterministic…'\n"
    (logs / "rank-00000.log").write_text(text.format("put_") + "step 1\n" + text.format("cumsum_cuda_kernel"))
    (logs / "rank-00001.log").write_text(text.format("put_"))
    assert undetermined(RunPaths(tmp_path)) == (
        "torch has no deterministic algorithm for cumsum_cuda_kernel",
        "torch has no deterministic algorithm for put_",
    )


def test_what_cannot_be_run_again_is_not_tried(tmp_path: Path) -> None:
    window = Window(RunPaths(tmp_path), {}, ("batch", "loss"), 0, 3, ORIGINAL, Lineage(), "it was rolled back")
    said: list[str] = []
    done = examine_window(Replayer(window, tmp_path, 0.0), None, 2, said.append)
    assert (done.verdict.kind, done.verdict.reason) == (VerdictKind.INCONCLUSIVE, "it was rolled back")
    assert said == []
