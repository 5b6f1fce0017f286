"""Snapshots that a rollback has discarded: set aside, no snapshots any more, and deleted at last."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.errors import SnapshotCorrupt
from resilient.policy.lineage import Lineage, Rollback
from resilient.protocol import names
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit, remove_discarded, remove_leftovers, retire
from resilient.snapshot.manifest import MOST_DIVERGENCE, Manifest, bounded
from resilient.snapshot.storage import Storage

CONTENT = bytes(range(200))


def commit_step(directory: Path, step: int, round_number: int = 0) -> Path:
    commit(Storage(), directory, Draft("r", step, round_number, {0: memoryview(CONTENT)}))
    return directory / names.snapshot_name(step)


def rolled_back(target: int, reached: int, round_number: int, lineage: Lineage | None = None) -> Lineage:
    return (lineage or Lineage()).rolled_back(Rollback(target, reached, round_number))


def test_what_was_taken_after_the_target_before_the_rollback_is_set_aside(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        commit_step(tmp_path, step, round_number=1)
    lineage = rolled_back(10, 35, 1)
    assert catalog.steps_on(tmp_path, lineage) == (10,)
    assert catalog.set_aside(Storage(), tmp_path, lineage) == [20, 30]
    assert catalog.committed_steps(tmp_path) == (10,)
    assert (tmp_path / "latest").readlink().name == names.snapshot_name(10)
    assert [path.name for path in catalog.discarded(tmp_path)] == [
        f"{names.snapshot_name(step)}.discarded-1" for step in (20, 30)
    ]
    assert catalog.set_aside(Storage(), tmp_path, lineage) == []


def test_what_a_later_round_has_taken_of_the_same_steps_stays(tmp_path: Path) -> None:
    commit_step(tmp_path, 10, round_number=1)
    commit_step(tmp_path, 30, round_number=1)
    commit_step(tmp_path, 20, round_number=2)
    assert catalog.steps_on(tmp_path, rolled_back(10, 35, 1)) == (10, 20)


def test_the_same_step_may_be_discarded_again_for_the_same_rollback(tmp_path: Path) -> None:
    lineage = rolled_back(10, 35, 1)
    for _ in range(2):  # a write that was under way when the first was renamed
        commit_step(tmp_path, 20, round_number=1)
        assert catalog.set_aside(Storage(), tmp_path, lineage) == [20]
    assert len(catalog.discarded(tmp_path)) == 2


def test_one_that_cannot_be_read_is_left_to_whoever_loads_it(tmp_path: Path) -> None:
    (commit_step(tmp_path, 20, round_number=1) / "manifest.json").write_text("{}")
    lineage = rolled_back(10, 35, 1)
    assert catalog.steps_on(tmp_path, lineage) == (20,)
    assert catalog.set_aside(Storage(), tmp_path, lineage) == []


def test_discarded_ones_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    for step in (10, 20):
        commit_step(tmp_path, step)
    catalog.quarantine(Storage(), commit_step(tmp_path, 15))
    catalog.set_aside(Storage(), tmp_path, rolled_back(10, 35, 0))
    assert remove_discarded(Storage(), tmp_path) == [f"{names.snapshot_name(20)}.discarded-1"]
    assert catalog.committed_steps(tmp_path) == (10,)
    assert catalog.count_quarantined(tmp_path) == 1
    assert not catalog.discarded(tmp_path)


def test_a_deletion_cut_short_is_finished_at_the_next_start(tmp_path: Path) -> None:
    class Interrupted(Storage):
        def remove_tree(self, path: Path) -> None:
            raise KeyboardInterrupt

    commit_step(tmp_path, 20)
    catalog.set_aside(Storage(), tmp_path, rolled_back(10, 35, 0))
    with pytest.raises(KeyboardInterrupt):
        retire(Interrupted(), catalog.discarded(tmp_path)[0])
    assert not catalog.discarded(tmp_path)
    assert len(remove_leftovers(Storage(), tmp_path)) == 1
    assert not list(tmp_path.glob("*20*"))


def test_the_manifest_says_what_the_detectors_and_the_lineage_were(tmp_path: Path) -> None:
    said = {"detector": {"since": 3, "values": [0.1, 2.5]}, "lineage": rolled_back(10, 35, 0).to_json()}
    manifest = commit(Storage(), tmp_path, Draft("r", 40, 1, {0: memoryview(CONTENT)}, divergence=said))
    read = catalog.read_manifest(tmp_path / names.snapshot_name(40))
    assert read.divergence == manifest.divergence == said
    assert Lineage.from_json(read.divergence["lineage"]) == rolled_back(10, 35, 0)


def test_a_manifest_takes_no_more_than_it_can_carry() -> None:
    large = list(range(MOST_DIVERGENCE))
    assert bounded({"detector": large, "lineage": {"format": 1}}) == {"lineage": {"format": 1}}
    assert bounded({"detector": float("nan"), "lineage": object()}) == {}


def test_a_manifest_with_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    manifest = commit(Storage(), tmp_path, Draft("r", 40, 1, {0: memoryview(CONTENT)}))
    for strange in ("a word", 3, [1]):
        with pytest.raises(SnapshotCorrupt):
            Manifest.from_bytes(_with(manifest, strange))


def _with(manifest: Manifest, divergence: object) -> bytes:
    """The manifest with a checksum that is right."""
    object.__setattr__(manifest, "divergence", divergence)
    return manifest.to_bytes()
