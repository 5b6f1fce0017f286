"""A snapshot in parts, interrupted at every operation; what becomes of it is what one node would have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.errors import SnapshotError, StorageFull, TermOver
from resilient.protocol.names import snapshot_name
from resilient.snapshot import storage as storage_module
from resilient.snapshot.catalog import committed_steps, read_manifest
from resilient.snapshot.commit import Draft, commit, drop, remove_leftovers, temporary_name
from resilient.snapshot.fencing import require_newest
from resilient.snapshot.image import Layout, TensorSpec
from resilient.snapshot.manifest import NAME
from resilient.snapshot.parts import Part, commit_parts, committed_from, gather, write_part
from resilient.snapshot.storage import Storage
from tests.snapshot.test_commit import NEW, OLD, FullStorage, PowerCut, cuts, draft, latest, names_in, state_of
from tests.snapshot.test_fencing import begin

IDENTITY = "0a1b2c3d" + 24 * "0"
STEP = 2


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "snapshots"
    made.mkdir()
    return made


def permitted() -> None:
    """One leads, and stays the leader."""


def staging_in(directory: Path) -> Path:
    return directory / temporary_name(STEP, IDENTITY)


def of_rank(whole: Draft, rank: int) -> Draft:
    return replace(whole, images={rank: whole.images[rank]}, metrics=whole.metrics if rank == 0 else {})


def write_all(storage: Storage, directory: Path, whole: Draft) -> list[Part]:
    """As many nodes as ranks, the last one first."""
    parts = [
        write_part(storage, staging_in(directory), of_rank(whole, rank)) for rank in sorted(whole.images, reverse=True)
    ]
    return [Part.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]


def finish(
    storage: Storage,
    directory: Path,
    whole: Draft,
    parts: list[Part],
    permit: Callable[[], None] = permitted,
) -> None:
    staging = staging_in(directory)
    gathered = gather(staging, parts, len(whole.images))
    commit_parts(storage, directory, staging, replace(whole, images={}), gathered, permit=permit)


def sharded(step: int) -> Draft:
    """Two ranks with halves of a tensor."""
    images = {}
    for rank in (0, 1):
        dtensor = {"$dtensor": {"local": {"$tensor": "w"}, "shape": [4], "offsets": [2 * rank]}}
        state = json.dumps({"objects": {"model": {"w": dtensor}}, "meshes": {}}).encode()
        layout = Layout.plan([TensorSpec("w", "F32", (2,))], len(state))
        images[rank] = memoryview(layout.header + bytes([rank]) * 8 + (layout.encode_state(state) or b""))
    return Draft("bytelm", step, 3, images, metrics={"loss": 0.5})


def test_the_snapshot_is_byte_for_byte_what_one_node_would_have_written(directory: Path, tmp_path: Path) -> None:
    whole, alone = sharded(STEP), tmp_path / "alone"
    alone.mkdir()
    finish(Storage(), directory, whole, write_all(Storage(), directory, whole))
    commit(Storage(), alone, whole)
    ours, theirs = (found / snapshot_name(STEP) for found in (directory, alone))
    assert names_in(ours) == names_in(theirs)
    for path in ours.iterdir():
        if path.name != NAME:
            assert path.read_bytes() == (theirs / path.name).read_bytes()
    one, other = read_manifest(ours), read_manifest(theirs)
    assert one.tensors["model.w"].parts, "what lies in parts is described from what is on the disk"
    assert one.to_bytes() == replace(other, identity=one.identity, created=one.created).to_bytes()
    assert one.identity.startswith(IDENTITY[:8])
    assert names_in(directory) == {snapshot_name(STEP), "latest"}


@pytest.mark.parametrize("fallback", [False, True])
def test_a_cut_anywhere_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fallback: bool
) -> None:
    """Of whichever node, and when a snapshot of that step is replaced, too."""
    if fallback:
        monkeypatch.setattr(storage_module, "_libc", object())
    seen: list[dict[int, bytes]] = []
    for storage in cuts():
        directory = tmp_path / str(len(seen)) / "snapshots"
        directory.mkdir(parents=True)
        commit(Storage(), directory, draft(STEP, OLD))
        whole = draft(STEP, NEW)
        with suppress(PowerCut):
            finish(storage, directory, whole, write_all(storage, directory, whole))
        if not fallback:
            assert state_of(directory) in ({STEP: OLD}, {STEP: NEW})
        remove_leftovers(Storage(), directory)
        seen.append(state_of(directory))
        assert names_in(directory) == {snapshot_name(STEP), "latest"}
        assert latest(directory) == snapshot_name(STEP)
    assert {STEP: OLD} in seen
    assert {STEP: NEW} in seen
    assert all(state in ({STEP: OLD}, {STEP: NEW}) for state in seen)


def test_a_part_is_written_again_by_whoever_comes_after_a_drain_that_died_over_it(directory: Path) -> None:
    whole = draft(STEP, NEW)
    for storage in cuts():
        with suppress(PowerCut):
            write_part(storage, staging_in(directory), of_rank(whole, 1))
    finish(Storage(), directory, whole, write_all(Storage(), directory, whole))
    assert state_of(directory) == {STEP: NEW}


@pytest.mark.parametrize("fail_at", range(1, 5))
def test_a_full_disk_leaves_nothing_of_the_part_and_all_of_the_others(directory: Path, fail_at: int) -> None:
    whole = draft(STEP, NEW)
    write_part(Storage(), staging_in(directory), of_rank(whole, 0))
    before = names_in(staging_in(directory))
    with pytest.raises(StorageFull):
        write_part(FullStorage(fail_at, 28), staging_in(directory), of_rank(whole, 1))
    assert names_in(staging_in(directory)) == before


def test_parts_that_are_not_all_there_make_no_snapshot(directory: Path) -> None:
    whole = draft(STEP, NEW)
    parts = write_all(Storage(), directory, whole)
    with pytest.raises(SnapshotError, match="images of 1 ranks, the run has 2"):
        gather(staging_in(directory), parts[:1], 2)
    with pytest.raises(SnapshotError, match="images of 3 ranks"):
        gather(staging_in(directory), [*parts, parts[0]], 2)
    image = staging_in(directory) / "rank-00001.safetensors"
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(SnapshotError, match=r"rank-00001\.safetensors has \d+ bytes"):
        finish(Storage(), directory, whole, parts)
    (staging_in(directory) / "part-00001.json").write_text("{}")
    with pytest.raises(SnapshotError, match=r"part-00001\.json cannot be read"):
        finish(Storage(), directory, whole, parts)
    assert committed_steps(directory) == ()


def test_a_leader_whose_term_is_over_commits_nothing(directory: Path) -> None:
    commit(Storage(), directory, draft(STEP, OLD))
    begin(directory, 1)
    whole = draft(STEP, NEW)
    parts = write_all(Storage(), directory, whole)
    begin(directory, 2)
    with pytest.raises(TermOver):
        finish(Storage(), directory, whole, parts, lambda: require_newest(directory, 1))
    assert state_of(directory) == {STEP: OLD}
    finish(Storage(), directory, whole, parts_again(directory, whole), lambda: require_newest(directory, 2))
    assert state_of(directory) == {STEP: NEW}


def parts_again(directory: Path, whole: Draft) -> list[Part]:
    assert drop(Storage(), staging_in(directory))
    assert not drop(Storage(), staging_in(directory))
    return write_all(Storage(), directory, whole)


@pytest.mark.parametrize("before", [None, OLD])
def test_what_was_committed_while_the_term_ended_is_taken_back(directory: Path, before: bytes | None) -> None:
    """The leader was asleep between its last look and its commit."""
    begin(directory, 1)
    if before is not None:
        commit(Storage(), directory, draft(STEP, before))
    whole = draft(STEP, NEW)
    parts = write_all(Storage(), directory, whole)

    class Sleepy(Storage):
        def rename(self, source: Path, target: Path) -> None:
            begin(directory, 2)
            super().rename(source, target)

        def exchange(self, one: Path, other: Path) -> None:
            begin(directory, 2)
            super().exchange(one, other)

    with pytest.raises(TermOver):
        finish(Sleepy(), directory, whole, parts, lambda: require_newest(directory, 1))
    assert state_of(directory) == ({} if before is None else {STEP: before})
    assert latest(directory) == (None if before is None else snapshot_name(STEP))


def test_an_answer_that_was_not_heard_can_be_asked_for_again(directory: Path) -> None:
    whole = draft(STEP, NEW)
    assert committed_from(Storage(), directory, staging_in(directory), STEP) is None
    commit(Storage(), directory, draft(STEP, OLD))
    assert committed_from(Storage(), directory, staging_in(directory), STEP) is None, "that is another one"
    finish(Storage(), directory, whole, write_all(Storage(), directory, whole))
    (directory / "latest").unlink()
    done = committed_from(Storage(), directory, staging_in(directory), STEP)
    assert done == read_manifest(directory / snapshot_name(STEP))
    assert latest(directory) == snapshot_name(STEP)


def test_what_is_swept_under_somebody_who_writes_fails_for_them(directory: Path) -> None:
    whole = draft(STEP, NEW)
    parts = write_all(Storage(), directory, whole)
    remove_leftovers(Storage(), directory)
    with pytest.raises(SnapshotError, match="cannot be read"):
        finish(Storage(), directory, whole, parts)
    assert names_in(directory) == set()
