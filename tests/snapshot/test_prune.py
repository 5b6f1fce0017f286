"""Inventory, pins and pruning, on real directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.errors import SnapshotNotFound
from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.lineage import Lineage, Rollback
from resilient.protocol import names
from resilient.protocol.lineage_file import write_lineage
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import catalog, pins
from resilient.snapshot import manifest as manifests
from resilient.snapshot.commit import Draft, commit, remove_leftovers
from resilient.snapshot.inventory import State, candidates, inventory
from resilient.snapshot.prune import prune, review
from resilient.snapshot.retention import Reason
from resilient.snapshot.standing import Standing
from resilient.snapshot.storage import Storage

STORAGE = Storage()
LAST = RetentionSettings(last=1)


def take(directory: Path, *steps: int, **metrics: float) -> None:
    for step in steps:
        image = memoryview(bytes([step % 256]) * 100)
        commit(STORAGE, directory, Draft("run", step, 0, {0: image}, metrics=metrics))


def test_what_retention_does_not_want_is_deleted(tmp_path: Path) -> None:
    take(tmp_path, 10, 20, 30)
    assert prune(STORAGE, tmp_path, LAST) == [10, 20]
    assert catalog.committed_steps(tmp_path) == (30,)
    assert prune(STORAGE, tmp_path, LAST) == []


def test_the_metrics_of_the_manifest_decide(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 9.0)):
        take(tmp_path, step, loss=loss)
    assert prune(STORAGE, tmp_path, replace(LAST, best=1, best_metric="loss")) == [10, 30]


def test_the_snapshot_committed_last_stays_although_a_rolled_back_one_has_a_higher_step(tmp_path: Path) -> None:
    take(tmp_path, 10, 50, 20)
    assert prune(STORAGE, tmp_path, LAST) == [10]
    assert catalog.committed_steps(tmp_path) == (20, 50)


@pytest.mark.parametrize("damage", ["manifest", "no manifest", "image cut", "no image"])
def test_what_cannot_be_loaded_is_left_alone_and_does_not_count_as_the_newest(tmp_path: Path, damage: str) -> None:
    take(tmp_path, 10, 20, 30)
    manifest, image = (tmp_path / names.snapshot_name(30) / name for name in (manifests.NAME, names.image_name(0)))
    damages: dict[str, Callable[[], object]] = {
        "manifest": lambda: manifest.write_text("{}"),
        "no manifest": manifest.unlink,
        "image cut": lambda: image.write_bytes(b"short"),
        "no image": image.unlink,
    }
    damages[damage]()
    assert prune(STORAGE, tmp_path, LAST) == [10]
    assert [(item.step, item.state) for item in inventory(tmp_path)] == [(20, State.COMMITTED), (30, State.CORRUPT)]
    assert inventory(tmp_path)[1].problem


def test_a_quarantined_snapshot_is_listed_and_no_candidate(tmp_path: Path) -> None:
    take(tmp_path, 10, 20)
    catalog.quarantine(STORAGE, tmp_path / names.snapshot_name(10))
    take(tmp_path, 10)
    items = inventory(tmp_path)
    assert [(item.step, item.state, item.quarantined) for item in items] == [
        (10, State.COMMITTED, False),
        (10, State.CORRUPT, True),
        (20, State.COMMITTED, False),
    ]
    assert [candidate.step for candidate in candidates(items)] == [10, 20]


def test_foreign_files_and_unfinished_commits_are_no_snapshots(tmp_path: Path) -> None:
    take(tmp_path, 10)
    (tmp_path / ".tmp-step-000000020-abc").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "step-000000030").touch()
    pins.pin(STORAGE, tmp_path, 10)
    assert [item.step for item in inventory(tmp_path)] == [10]
    assert inventory(tmp_path / "nowhere") == ()


# --- pins


def test_a_pin_keeps_a_snapshot_until_it_is_taken_off(tmp_path: Path) -> None:
    take(tmp_path, 10, 20, 30)
    pins.pin(STORAGE, tmp_path, 10)
    pins.pin(STORAGE, tmp_path, 10)
    remove_leftovers(STORAGE, tmp_path)
    assert prune(STORAGE, tmp_path, LAST) == [20]
    assert pins.unpin(STORAGE, tmp_path, 10)
    assert not pins.unpin(STORAGE, tmp_path, 10)
    assert prune(STORAGE, tmp_path, LAST) == [10]


def test_a_pin_does_not_touch_what_is_verified(tmp_path: Path) -> None:
    take(tmp_path, 10)
    before = {path.name: path.stat() for path in (tmp_path / names.snapshot_name(10)).iterdir()}
    pins.pin(STORAGE, tmp_path, 10)
    assert {path.name: path.stat() for path in (tmp_path / names.snapshot_name(10)).iterdir()} == before
    catalog.verify(tmp_path / names.snapshot_name(10))


def test_only_a_snapshot_can_be_pinned(tmp_path: Path) -> None:
    take(tmp_path, 10)
    with pytest.raises(SnapshotNotFound, match="step 20"):
        pins.pin(STORAGE, tmp_path, 20)
    assert not pins.is_pinned(tmp_path, 20)


def test_a_pin_set_between_the_verdict_and_the_deletion_is_respected(tmp_path: Path) -> None:
    class PinsMeanwhile(Storage):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            pins.pin(STORAGE, tmp_path, 20)

    take(tmp_path, 10, 20, 30)
    assert prune(PinsMeanwhile(), tmp_path, LAST) == [10]


def test_a_quarantined_step_that_is_trained_again_is_still_pinned(tmp_path: Path) -> None:
    take(tmp_path, 10, 20)
    pins.pin(STORAGE, tmp_path, 10)
    catalog.quarantine(STORAGE, tmp_path / names.snapshot_name(10))
    take(tmp_path, 10, 30)
    assert prune(STORAGE, tmp_path, LAST) == [20]


# --- the lineage


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "run")
    paths.create()
    return paths


def known(*steps: int, now: int, good_after: int = 100) -> KnownGood:
    found = KnownGood()
    for step in steps:
        found = found.taken(step, 10).advanced(step, good_after)
    return found.advanced(now, good_after)


def test_what_a_rollback_may_need_stays_and_its_heirs(run: RunPaths) -> None:
    take(run.snapshots, *range(100, 900, 50))
    write_lineage(run, Lineage(known=known(*range(100, 900, 50), now=850)))
    # good up to 750; an alarm of now leaves good what is not after 850 - 200 - 10
    assert prune(STORAGE, run.snapshots, LAST) == [*range(100, 600, 50)]
    verdict = review(run.snapshots, inventory(run.snapshots), LAST)
    assert verdict.kept == {
        600: (Reason.GOOD,),
        650: (Reason.GOOD,),
        700: (Reason.GOOD,),
        750: (Reason.GOOD,),
        800: (Reason.GOOD,),
        850: (Reason.NEWEST, Reason.LAST),
    }
    assert prune(STORAGE, run.snapshots, LAST, margin=100) == [650]


def test_a_run_that_nobody_watches_keeps_no_more_than_retention_wants(run: RunPaths) -> None:
    take(run.snapshots, 10, 20, 30)
    write_lineage(run, Lineage(known=KnownGood().taken(10, 10)))
    assert prune(STORAGE, run.snapshots, LAST, margin=None) == [10, 20]


def test_one_that_the_lineage_has_not_heard_of_yet_is_on_probation_and_stays_until_it_is_good(run: RunPaths) -> None:
    take(run.snapshots, 100, 110, 120, 130)
    write_lineage(run, Lineage(known=KnownGood().taken(100, 10).alarmed(105, 10)))
    assert prune(STORAGE, run.snapshots, LAST) == [100, 110, 120]  # all of them suspect but the newest, which is too
    write_lineage(run, Lineage(known=KnownGood().taken(130, 10)))
    take(run.snapshots, 140, 150)
    assert prune(STORAGE, run.snapshots, LAST) == [140]


def test_where_the_lineage_cannot_be_read_nothing_is_deleted(run: RunPaths) -> None:
    take(run.snapshots, 10, 20, 30)
    run.lineage.write_text("{}")
    assert prune(STORAGE, run.snapshots, LAST) == []
    verdict = review(run.snapshots, inventory(run.snapshots), LAST)
    assert verdict.removable == ()
    assert set(verdict.kept.values()) == {(Reason.UNKNOWN,)}
    assert "cannot be read" in Standing.read(run.snapshots).problem


def test_what_is_off_the_lineage_is_neither_the_last_nor_the_best_nor_deleted(run: RunPaths) -> None:
    take(run.snapshots, 10, 20, loss=5.0)
    take(run.snapshots, 30, 40, loss=0.1)
    lineage = Lineage().rolled_back(Rollback(20, 45, 0))
    write_lineage(run, lineage)
    best = replace(LAST, best=1, best_metric="loss")
    for _ in range(2):  # as the rollback leaves them, and once they are set aside
        found = inventory(run.snapshots)
        assert [(item.step, item.state) for item in found] == [
            (10, State.COMMITTED),
            (20, State.COMMITTED),
            (30, State.DISCARDED),
            (40, State.DISCARDED),
        ]
        assert not any(item.quarantined for item in found)
        assert all("discarded by" in item.problem for item in found[2:])
        assert review(run.snapshots, found, best).kept == {20: (Reason.NEWEST, Reason.LAST, Reason.BEST)}
        catalog.set_aside(STORAGE, run.snapshots, lineage)
    assert prune(STORAGE, run.snapshots, best) == [10]
    assert [item.step for item in inventory(run.snapshots)] == [20, 30, 40]


def test_the_target_of_a_rollback_that_has_not_begun_stays(run: RunPaths) -> None:
    take(run.snapshots, 10, 20, 30)
    write_lineage(run, Lineage().rolled_back(Rollback(10, 35, -1)))  # nothing is discarded by round -1
    assert prune(STORAGE, run.snapshots, LAST) == [20]
