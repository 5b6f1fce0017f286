"""Commit, interrupted at every operation: afterwards there is the old snapshot or the new one, whole, nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from pathlib import Path

import pytest

from resilient.errors import SnapshotCorrupt, StorageFull
from resilient.protocol import names
from resilient.snapshot import storage as storage_module
from resilient.snapshot.catalog import committed_steps, read_manifest, verify
from resilient.snapshot.commit import Draft, commit, remove_doomed, remove_leftovers, retire
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.storage import Storage, Writer

OLD, NEW = b"old state " * 500, b"new state " * 700
SPARE = 16 << 20


class PowerCut(BaseException):
    """Nothing runs after it, not even clean-up."""


class When(Enum):
    """Where in the operation the power is cut."""

    BEFORE = "before"
    MIDWAY = "midway"
    AFTER = "after"


class FailingStorage(Storage):
    """Cuts the power at the ``fail_at``-th operation. What was written and not yet synced is lost with it."""

    def __init__(self, fail_at: int = 0, when: When = When.BEFORE) -> None:
        self.operations: list[str] = []
        self.fail_at = fail_at
        self.when = when
        self.dead = False
        self._unsynced: set[int] = set()

    def _operation(self, name: str, act: Callable[[], None], partly: Callable[[], None] | None = None) -> None:
        if self.dead:
            raise PowerCut
        self.operations.append(name)
        if len(self.operations) == self.fail_at:
            if self.when is When.AFTER:
                act()
            elif self.when is When.MIDWAY and partly is not None:
                partly()
            self._cut()
        act()

    def _cut(self) -> None:
        self.dead = True
        for descriptor in self._unsynced:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        raise PowerCut

    def make_directory(self, path: Path) -> None:
        self._operation("make_directory", lambda: super(FailingStorage, self).make_directory(path))

    def write(self, path: Path, produce: Callable[[Writer], None]) -> None:
        super().write(path, produce)
        self._unsynced.clear()

    def append(self, descriptor: int, data: memoryview) -> None:
        self._unsynced.add(descriptor)
        half = data[: len(data) // 2]
        write = super().append
        self._operation("append", lambda: write(descriptor, data), lambda: write(descriptor, half))

    def sync(self, descriptor: int) -> None:
        def act() -> None:
            super(FailingStorage, self).sync(descriptor)
            self._unsynced.discard(descriptor)

        self._operation("sync", act)

    def sync_directory(self, path: Path) -> None:
        kind = "parent" if path.name == "snapshots" else "temporary"
        self._operation(f"sync {kind}", lambda: super(FailingStorage, self).sync_directory(path))

    def rename(self, source: Path, target: Path) -> None:
        self._operation("rename", lambda: super(FailingStorage, self).rename(source, target))

    def exchange(self, one: Path, other: Path) -> None:
        self._operation("exchange", lambda: super(FailingStorage, self).exchange(one, other))

    def point(self, link: Path, target: str) -> None:
        self._operation("point", lambda: super(FailingStorage, self).point(link, target))

    def remove_file(self, path: Path) -> None:
        self._operation("remove_file", lambda: super(FailingStorage, self).remove_file(path))

    def remove_tree(self, path: Path) -> None:
        def partly() -> None:
            min(path.iterdir()).unlink()

        self._operation("remove_tree", lambda: super(FailingStorage, self).remove_tree(path), partly)


class FullStorage(Storage):
    """The disk is full at the ``fail_at``-th write or flush."""

    def __init__(self, fail_at: int, number: int) -> None:
        self.fail_at = fail_at
        self.number = number
        self.operations = 0

    def _count(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise OSError(self.number, os.strerror(self.number))

    def append(self, descriptor: int, data: memoryview) -> None:
        super().append(descriptor, data[: len(data) // 2])
        self._count()
        super().append(descriptor, data[len(data) // 2 :])

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)


class SmallStorage(Storage):
    """A disk with so many bytes left."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, path: Path) -> int:
        return self.free


def draft(step: int, content: bytes, ranks: int = 2) -> Draft:
    images = {rank: memoryview(content + bytes([rank])) for rank in range(ranks)}
    return Draft("bytelm", step, 3, images, parent="b" * 32, metrics={"loss": 0.5}, versions={"torch": "2.13"})


def state_of(directory: Path) -> dict[int, bytes]:
    """What every committed snapshot holds; each of them must be whole."""
    found = {}
    for step in committed_steps(directory):
        snapshot = directory / names.snapshot_name(step)
        manifest = verify(snapshot)
        contents = {(snapshot / file.name).read_bytes()[:-1] for file in manifest.files}
        assert len(manifest.files) == 2
        (found[step],) = contents
    return found


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def latest(directory: Path) -> str | None:
    link = directory / "latest"
    return str(link.readlink()) if link.is_symlink() else None


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "snapshots"
    made.mkdir()
    return made


@pytest.fixture(params=["exchange", "fallback"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's atomic swap, and on a filesystem that has none."""
    if request.param == "fallback":
        monkeypatch.setattr(storage_module, "_libc", object())
    return str(request.param)


# --- a commit that is left in peace


def test_a_commit_is_whole_and_says_what_it_was_told(directory: Path) -> None:
    manifest = commit(Storage(), directory, draft(5, NEW))
    assert state_of(directory) == {5: NEW}
    assert read_manifest(directory / "step-000000005") == manifest
    assert (manifest.run_id, manifest.step, manifest.round, manifest.world_size) == ("bytelm", 5, 3, 2)
    assert (manifest.parent, manifest.metrics, manifest.versions["torch"]) == ("b" * 32, {"loss": 0.5}, "2.13")
    assert manifest.size == 2 * (len(NEW) + 1)
    assert latest(directory) == "step-000000005"
    assert names_in(directory) == {"step-000000005", "latest"}


def test_every_commit_has_an_identity_of_its_own(directory: Path) -> None:
    identities = {commit(Storage(), directory, draft(step, NEW)).identity for step in (1, 2, 2)}
    assert len(identities) == 3


def test_nothing_is_visible_before_it_is_durable_and_nothing_is_deleted_before_the_rest_is(directory: Path) -> None:
    written = [*["append", "sync"] * 3, "sync temporary"]
    storage = FailingStorage()
    commit(storage, directory, draft(5, OLD))
    assert storage.operations == ["make_directory", *written, "rename", "sync parent", "point", "sync parent"]
    again = FailingStorage()
    commit(again, directory, draft(5, NEW))
    assert again.operations == [
        *["make_directory", *written, "exchange"],
        *["sync parent", "point", "sync parent", "remove_tree"],
    ]


def test_a_snapshot_of_the_same_step_is_replaced(directory: Path, swap: str) -> None:
    first = commit(Storage(), directory, draft(5, OLD))
    second = commit(Storage(), directory, draft(5, NEW))
    assert first.identity != second.identity
    assert state_of(directory) == {5: NEW}
    assert names_in(directory) == {"step-000000005", "latest"}


def test_an_incomplete_directory_in_the_snapshots_place_is_replaced(directory: Path) -> None:
    (directory / "step-000000005").mkdir()
    commit(Storage(), directory, draft(5, NEW))
    assert state_of(directory) == {5: NEW}


def test_a_snapshot_of_no_bytes_is_a_snapshot(directory: Path) -> None:
    commit(Storage(), directory, Draft("x", 1, 0, {0: memoryview(b"")}))
    assert verify(directory / "step-000000001").size == 0


# --- the power is cut


def cuts() -> Iterator[FailingStorage]:
    """Storages whose power is cut at their first operation, at their second and so on, until one gets through."""
    for when in When:
        storage = FailingStorage()
        for fail_at in range(1, 100):
            storage = FailingStorage(fail_at, when)
            yield storage
            if not storage.dead:
                break
        assert not storage.dead


def check_cuts(
    tmp_path: Path,
    prepare: Callable[[Path], object],
    act: Callable[[Storage, Path], object],
    allowed: list[dict[int, bytes]],
    *,
    before_cleaning: bool = True,
) -> None:
    """Cut the power everywhere in ``act``: every time one of the ``allowed`` states is left, and nothing beside it."""
    seen: list[dict[int, bytes]] = []
    for storage in cuts():
        directory = tmp_path / str(len(seen)) / "snapshots"
        directory.mkdir(parents=True)
        prepare(directory)
        with suppress(PowerCut):
            act(storage, directory)
        if before_cleaning:
            assert state_of(directory) in allowed
        remove_leftovers(Storage(), directory)
        found = state_of(directory)
        assert found in allowed
        assert names_in(directory) - {"latest"} == {names.snapshot_name(step) for step in found}
        assert latest(directory) in {None, *map(names.snapshot_name, found)}
        seen.append(found)
    assert all(state in seen for state in allowed), "the cuts come before and after the moment that counts"


def test_a_cut_anywhere_in_a_commit_leaves_the_older_snapshot_and_perhaps_the_new_one(tmp_path: Path) -> None:
    check_cuts(
        tmp_path,
        lambda directory: commit(Storage(), directory, draft(1, OLD)),
        lambda storage, directory: commit(storage, directory, draft(2, NEW)),
        [{1: OLD}, {1: OLD, 2: NEW}],
    )


def test_a_cut_anywhere_in_the_first_commit_leaves_it_or_nothing(tmp_path: Path) -> None:
    check_cuts(
        tmp_path,
        lambda directory: None,
        lambda storage, directory: commit(storage, directory, draft(2, NEW)),
        [{}, {2: NEW}],
    )


def test_a_cut_anywhere_in_a_replacement_leaves_the_old_or_the_new_one_whole(tmp_path: Path, swap: str) -> None:
    """Without an atomic swap the step may be out of sight until the next start, but it is never lost."""
    check_cuts(
        tmp_path,
        lambda directory: commit(Storage(), directory, draft(2, OLD)),
        lambda storage, directory: commit(storage, directory, draft(2, NEW)),
        [{2: OLD}, {2: NEW}],
        before_cleaning=swap == "exchange",
    )


def test_a_cut_anywhere_in_a_deletion_leaves_the_snapshot_whole_or_gone(tmp_path: Path) -> None:
    def prepare(directory: Path) -> None:
        commit(Storage(), directory, draft(1, OLD))
        commit(Storage(), directory, draft(2, NEW))

    check_cuts(
        tmp_path,
        prepare,
        lambda storage, directory: retire(storage, directory / "step-000000001"),
        [{1: OLD, 2: NEW}, {2: NEW}],
    )


@pytest.mark.parametrize("first", range(9, 16))
@pytest.mark.parametrize("second", range(1, 4))
def test_a_second_cut_while_leftovers_are_removed_costs_nothing(
    directory: Path, swap: str, first: int, second: int
) -> None:
    """Cut in the middle of publishing, and at the next start in the middle of cleaning up."""
    commit(Storage(), directory, draft(2, OLD))
    with suppress(PowerCut):
        commit(FailingStorage(first), directory, draft(2, NEW))
    with suppress(PowerCut):
        remove_leftovers(FailingStorage(second, When.MIDWAY), directory)
    remove_leftovers(Storage(), directory)
    assert state_of(directory) in ({2: OLD}, {2: NEW})
    assert names_in(directory) == {"step-000000002", "latest"}


# --- the disk is full


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fail_at", range(1, 7))
def test_a_full_disk_at_any_write_is_said_and_nothing_is_left(directory: Path, fail_at: int, number: int) -> None:
    commit(Storage(), directory, draft(1, OLD))
    before = names_in(directory)
    with pytest.raises(StorageFull, match="full") as raised:
        commit(FullStorage(fail_at, number), directory, draft(2, NEW))
    assert raised.value.remedy
    assert names_in(directory) == before
    assert state_of(directory) == {1: OLD}
    assert latest(directory) == "step-000000001"


def test_those_are_all_the_writes_of_a_commit(directory: Path) -> None:
    storage = FullStorage(fail_at=7, number=errno.ENOSPC)
    commit(storage, directory, draft(1, OLD))
    assert storage.operations == 6


def test_what_does_not_fit_is_not_begun(directory: Path) -> None:
    needed = 2 * (len(NEW) + 1) + SPARE
    with pytest.raises(StorageFull, match=f"{needed} bytes"):
        commit(SmallStorage(needed - 1), directory, draft(1, NEW))
    assert names_in(directory) == set()
    commit(SmallStorage(needed), directory, draft(1, NEW))
    assert state_of(directory) == {1: NEW}


def test_another_error_passes_through_and_costs_no_older_snapshot(directory: Path) -> None:
    commit(Storage(), directory, draft(1, OLD))
    with pytest.raises(OSError, match="Input/output error"):
        commit(FullStorage(2, errno.EIO), directory, draft(2, NEW))
    assert state_of(directory) == {1: OLD}
    remove_leftovers(Storage(), directory)
    assert names_in(directory) == {"step-000000001", "latest"}


# --- leftovers


def test_only_leftovers_are_removed(directory: Path) -> None:
    commit(Storage(), directory, draft(1, OLD))
    for name in (".tmp-step-000000002-abcd", ".tmp-step-000000001-retired-abcd"):
        (directory / name).mkdir()
        (directory / name / "rank-00000.safetensors").write_bytes(b"x")
    kept = {"step-000000001", "latest", "step-000000003.corrupt", "notes.txt"}
    (directory / "step-000000003.corrupt").mkdir()
    (directory / "notes.txt").write_text("mine")
    removed = remove_leftovers(Storage(), directory)
    assert {path.name for path in removed} == {".tmp-step-000000002-abcd", ".tmp-step-000000001-retired-abcd"}
    assert names_in(directory) == kept


def test_what_is_being_removed_is_told_from_what_somebody_else_writes(directory: Path) -> None:
    for name in (".tmp-step-000000002-abcd", ".tmp-step-000000001-retired-abcd", ".tmp-dropped-abcd"):
        (directory / name).mkdir()
        (directory / name / "rank-00000.safetensors").write_bytes(b"x")
    remove_doomed(Storage(), directory)
    assert names_in(directory) == {".tmp-step-000000002-abcd"}


def test_two_may_remove_the_same_at_the_same_time(directory: Path) -> None:
    doomed = directory / ".tmp-dropped-abcd"
    doomed.mkdir()
    for number in range(50):
        (doomed / f"{number}").write_bytes(b"x")
    with ThreadPoolExecutor(2) as pool:
        for removal in [pool.submit(remove_doomed, Storage(), directory) for _ in range(2)]:
            removal.result()
    assert names_in(directory) == set()


def test_a_manifest_cut_short_by_the_loss_of_power_is_found(directory: Path) -> None:
    """A disk that lies about its flush: the directory is there, its last file is not whole."""
    manifest: Manifest = commit(Storage(), directory, draft(1, OLD))
    path = directory / "step-000000001" / "manifest.json"
    path.write_bytes(manifest.to_bytes()[:-10])
    assert committed_steps(directory) == (1,)
    with pytest.raises(SnapshotCorrupt, match="step-000000001"):
        verify(directory / "step-000000001")
