"""A run that begins with another run's snapshot: which one, what it takes over, and that it appears whole or not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from resilient.drill.faults import flip_bit
from resilient.errors import (
    ConfigurationError,
    LineageUnreadable,
    ResilientError,
    RunNotFound,
    SnapshotCorrupt,
    SnapshotNotFound,
    StorageFull,
    UsageError,
)
from resilient.fork import begin
from resilient.fork.making import _TEMPORARY
from resilient.policy.divergence.known_good import Grade, Graded, KnownGood
from resilient.policy.lineage import Fork, Lineage, Rollback, Skip
from resilient.protocol import names
from resilient.protocol.lineage_file import read_lineage, write_lineage
from resilient.protocol.paths import RunPaths, hostname
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.export import export_snapshot
from resilient.snapshot.storage import Storage

SKIPS = [Skip((0, number), (0, number + 10)) for number in (100, 200, 300)]
ROLLBACKS = tuple(
    Rollback(30 if round_number == 3 else 10, 60, round_number, (31, 40), skip, lr_factor)
    for round_number, skip, lr_factor in ((0, SKIPS[0], 0.5), (1, None, 0.5), (2, SKIPS[1], 0.25), (3, SKIPS[2], 0.125))
)
LINEAGE = Lineage(ROLLBACKS, known=KnownGood().taken(20, 0).advanced(40, 20).taken(40, 0))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """The run ``mine`` in ./runs with snapshots of steps 10, 20 and 40, of rounds 0, 3 and 4."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths.of("runs", "mine")
    paths.create()
    write_lineage(paths, LINEAGE)
    said = {"detector": {"kept": True}, "lineage": Lineage(ROLLBACKS[:2]).to_json()}
    for step, round_number in ((10, 0), (20, 3), (40, 4)):
        images = {rank: memoryview(bytes([step + rank]) * 5000) for rank in range(2)}
        draft = Draft("mine", step, round_number, images, metrics={"loss": 1.0 / step}, divergence=said)
        commit(Storage(), paths.snapshots, draft)
    paths.config.write_text("retention: {best: 1, best_metric: loss, best_mode: max}\n")
    return paths


@pytest.fixture
def target() -> RunPaths:
    return RunPaths.of("runs", "new")


def fork(text: str, target: RunPaths, ranks: int = 2) -> str:
    return begin(text, target, ranks, lambda: "mine")


# --- which snapshot


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("mine:20", 20),
        ("mine:step-000000020", 20),
        ("mine:step=latest", 40),
        ("mine:latest", 40),
        ("mine:best", 10),
        ("mine:good", 20),
        ("step=best", 10),
        ("step-000000020", 20),
        ("40", 40),
        ("runs/mine/snapshots/step-000000020", 20),
        ("./runs/mine/snapshots/step-000000020/", 20),
        ("runs/mine:20", 20),
    ],
)
def test_what_from_means(source: RunPaths, target: RunPaths, text: str, step: int) -> None:
    assert fork(text, target) == f"forked from step {step} of the run mine"
    assert catalog.committed_steps(target.snapshots) == (step,)
    forked = read_lineage(target).forked_from
    assert forked == Fork("mine", step, catalog.read_manifest(source.snapshot(step)).identity)


def test_an_exported_snapshot_can_be_begun_with(source: RunPaths, target: RunPaths, tmp_path: Path) -> None:
    export_snapshot(LocalCopy(source.snapshot(20)), tmp_path / "kept")
    fork("./kept", target)
    assert read_lineage(target).forked_from == Fork("mine", 20, catalog.read_manifest(source.snapshot(20)).identity)
    assert read_lineage(target).skips == (SKIPS[0],)  # as its manifest has it


# --- what it is made of


def test_the_snapshot_is_the_same_under_another_name_and_its_images_take_no_room(
    source: RunPaths, target: RunPaths
) -> None:
    fork("mine:20", target)
    old, new = catalog.read_manifest(source.snapshot(20)), catalog.verify(target.snapshot(20))
    assert (new.run_id, new.parent, new.round) == ("new", old.identity, 0)
    assert new.identity != old.identity
    assert new.created >= old.created
    same = ("step", "world_size", "files", "metrics", "versions", "durations")
    assert all(getattr(new, name) == getattr(old, name) for name in same)
    assert new.divergence["detector"] == {"kept": True}
    assert Lineage.from_json(new.divergence["lineage"]) == read_lineage(target)
    for rank in range(2):
        image = names.image_name(rank)
        assert (source.snapshot(20) / image).samefile(target.snapshot(20) / image)
    assert target.latest.readlink().name == names.snapshot_name(20)
    assert catalog.verify(source.snapshot(20)) == old
    assert {path.name for path in Path("runs").iterdir()} == {"mine", "new"}


def test_where_links_are_impossible_it_is_copied(
    source: RunPaths, target: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(_self: Path, _other: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", across)
    fork("mine:20", target)
    image = names.image_name(1)
    assert not (source.snapshot(20) / image).samefile(target.snapshot(20) / image)
    assert catalog.verify(target.snapshot(20)).step == 20


def test_a_copy_that_is_not_what_was_read_is_no_fork(
    source: RunPaths, target: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(_self: Path, _other: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def lose_the_end(reader: BinaryIO, writer: BinaryIO, _size: int) -> None:
        writer.write(reader.read()[:-1] + b"?")

    monkeypatch.setattr(Path, "hardlink_to", across)
    monkeypatch.setattr("resilient.fork.making.shutil.copyfileobj", lose_the_end)
    with pytest.raises(SnapshotCorrupt, match="checksum mismatch"):
        fork("mine:20", target)
    assert {path.name for path in Path("runs").iterdir()} == {"mine"}


@pytest.mark.parametrize(
    ("step", "skips", "factor"), [(10, (), 1.0), (20, (SKIPS[0], SKIPS[1]), 0.25), (40, tuple(SKIPS), 0.125)]
)
def test_it_takes_over_what_the_snapshot_knows_of_rollbacks_and_no_more(
    source: RunPaths, target: RunPaths, step: int, skips: tuple[Skip, ...], factor: float
) -> None:
    fork(f"mine:{step}", target)
    lineage = read_lineage(target)
    assert (lineage.skips, lineage.lr_factor, lineage.rollbacks, lineage.pending) == (skips, factor, (), False)


def test_a_fork_of_a_fork_takes_over_what_that_had_taken_over(source: RunPaths, target: RunPaths) -> None:
    fork("mine:20", target)
    again = RunPaths.of("runs", "again")
    begin("new:latest", again, 2, lambda: "")
    assert (read_lineage(again).skips, read_lineage(again).lr_factor) == ((SKIPS[0], SKIPS[1]), 0.25)
    assert read_lineage(again).forked_from == Fork("new", 20, catalog.read_manifest(target.snapshot(20)).identity)


def test_a_good_one_is_good_and_any_other_is_on_probation(source: RunPaths, target: RunPaths) -> None:
    fork("mine:20", target)
    assert read_lineage(target).known == KnownGood((Graded(20, Grade.GOOD, 20),))
    write_lineage(source, Lineage(known=LINEAGE.known.alarmed(30, 0)))
    fork("mine:40", RunPaths.of("runs", "other"))
    assert read_lineage(RunPaths.of("runs", "other")).known == KnownGood((Graded(40, Grade.TAKEN, 40),))


# --- started again


def test_the_same_command_goes_on_with_the_fork(source: RunPaths, target: RunPaths) -> None:
    fork("mine:good", target)
    commit(Storage(), target.snapshots, Draft("new", 30, 0, {0: memoryview(bytes(10))}))
    write_lineage(source, Lineage(known=KnownGood().taken(40, 0).advanced(90, 10)))  # another one is good by now
    for text in ("mine:good", "mine:20", "runs/mine/snapshots/step-000000020", "good"):
        assert fork(text, target) == "goes on with what was forked from step 20 of the run mine"
    assert catalog.committed_steps(target.snapshots) == (20, 30)


def test_the_source_need_not_be_there_any_more(source: RunPaths, target: RunPaths) -> None:
    fork("mine:20", target)
    source.root.rename("gone")
    assert fork("mine:20", target).startswith("goes on")
    assert fork("runs/mine/snapshots/step-000000020", target).startswith("goes on")
    assert catalog.verify(target.snapshot(20))


@pytest.mark.parametrize("text", ["mine:40", "other:20", "runs/mine/snapshots/step-000000040"])
def test_a_fork_of_something_else_is_not_taken_for_it(source: RunPaths, target: RunPaths, text: str) -> None:
    fork("mine:20", target)
    with pytest.raises(ConfigurationError, match="began with step 20 of mine"):
        fork(text, target)


def test_a_run_that_is_there_and_no_fork_is_not_made_one(source: RunPaths, target: RunPaths) -> None:
    target.create()
    with pytest.raises(ConfigurationError, match="is there already and is no fork"):
        fork("mine:20", target)
    assert catalog.committed_steps(target.snapshots) == ()


# --- mistakes, and nothing is made


def _damaged(source: RunPaths) -> None:
    flip_bit(source.snapshot(20) / names.image_name(1), 777)


def _unreadable(source: RunPaths) -> None:
    source.lineage.write_text("{}")


def _discarded(source: RunPaths) -> None:
    write_lineage(source, LINEAGE.rolled_back(Rollback(10, 60, 4)))


@pytest.mark.parametrize(
    ("text", "change", "error", "says"),
    [
        ("", None, UsageError, "from=RUN:120"),
        ("mine:newest", None, UsageError, "latest|best|good"),
        ("mine:25", None, SnapshotNotFound, "10, 20, 40"),
        ("mien:20", None, RunNotFound, "did you mean mine?"),
        ("runs/mine/snapshots/step-000000025", None, SnapshotNotFound, "no snapshot"),
        ("runs/mine", None, SnapshotNotFound, "manifest.json"),
        ("new:20", None, ConfigurationError, "resilient rollback run=new step=20"),
        ("mine:20", _damaged, SnapshotCorrupt, "checksum mismatch"),
        ("mine:20", _unreadable, LineageUnreadable, "lineage.json"),
        ("mine:20", _discarded, SnapshotNotFound, "those of the run: 10"),
    ],
)
def test_mistakes_leave_nothing(
    source: RunPaths, text: str, change: Callable[[RunPaths], None] | None, error: type[ResilientError], says: str
) -> None:
    if change is not None:
        change(source)
    with pytest.raises(error) as caught:
        fork(text, RunPaths.of("runs", "new"))
    assert says in str(caught.value)
    assert {path.name for path in Path("runs").iterdir()} == {"mine"}


def test_another_number_of_ranks_is_refused(source: RunPaths, target: RunPaths) -> None:
    with pytest.raises(ConfigurationError, match="that of 2"):
        fork("mine:20", target, ranks=4)
    assert not target.root.exists()


def test_a_fork_that_is_cut_short_leaves_nothing_that_could_be_taken_for_one(
    source: RunPaths, target: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_arguments: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr("resilient.fork.making.write_lineage", fail)
        with pytest.raises(StorageFull):
            fork("mine:20", target)
    assert {path.name for path in Path("runs").iterdir()} == {"mine"}
    killed = Path("runs") / f"{_TEMPORARY}new.{hostname()}.999999999"
    killed.mkdir()
    fork("mine:20", target)
    assert {path.name for path in Path("runs").iterdir()} == {"mine", "new"}
