"""The file operations of a commit, one by one, on the real filesystem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resilient.snapshot import storage as storage_module
from resilient.snapshot.storage import Storage


@pytest.fixture(params=["exchange", "fallback"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """With the kernel's atomic swap, and on a filesystem that has none."""
    if request.param == "fallback":
        monkeypatch.setattr(storage_module, "_libc", object())
    return Storage()


def test_a_file_is_written_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def produce(append: storage_module.Writer) -> None:
        append(memoryview(b"ab"))
        append(memoryview(b""))
        append(memoryview(b"cd"))

    Storage().write(path, produce)
    assert path.read_bytes() == b"abcd"


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        Storage().write(path, lambda append: append(memoryview(b"new")))
    assert path.read_bytes() == b"old"


def test_no_descriptor_is_left_open_when_writing_fails(tmp_path: Path) -> None:
    def produce(append: storage_module.Writer) -> None:
        append(memoryview(b"x"))
        raise RuntimeError("the producer fails")

    def descriptors() -> list[Path]:
        return sorted(Path("/proc/self/fd").iterdir())

    before = descriptors()
    with pytest.raises(RuntimeError, match="the producer fails"):
        Storage().write(tmp_path / "x", produce)
    assert descriptors() == before


def test_exchanged_directories_have_changed_places(tmp_path: Path, storage: Storage) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        (path / "name").write_text(path.name)
    storage.exchange(one, other)
    assert (one / "name").read_text() == "other"
    assert (other / "name").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_exchanging_with_nothing_is_an_error(tmp_path: Path, storage: Storage) -> None:
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(FileNotFoundError):
        storage.exchange(one, tmp_path / "none")


def test_a_link_is_made_and_moved(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    for target in ("step-1", "step-2"):
        Storage().point(link, target)
        assert str(link.readlink()) == target
    assert list(tmp_path.iterdir()) == [link]


def test_a_link_that_a_killed_process_left_half_made_is_no_obstacle(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    (tmp_path / f".latest.{os.getpid()}").symlink_to("step-0")
    Storage().point(link, "step-1")
    assert str(link.readlink()) == "step-1"


def test_free_space_is_that_of_the_filesystem(tmp_path: Path) -> None:
    stats = os.statvfs(tmp_path)
    assert 0 < Storage().free_bytes(tmp_path) <= stats.f_blocks * stats.f_frsize
