"""Whatever goes wrong, there is all of the target or nothing of it, and what was there before stays as it was."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import resilient
from resilient.cli import main
from resilient.convert.checkpoint import LazyTensor, Writing, changed
from resilient.convert.conversion import write
from resilient.convert.formats import format_named
from resilient.convert.opening import open_checkpoint
from resilient.errors import CheckpointUnreadable, StorageFull, TargetNotWritable
from resilient.snapshot.storage import Storage
from tests.convert.states import NAMES, differences, made, nasty

FORMATS = tuple(NAMES)
THROUGH_STORAGE = [form for form in FORMATS if form != "dcp"]  # whose data torch writes itself


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_checkpoint(made(tmp_path_factory.mktemp("source"), "torch")).tree


class Failing(Storage):
    """Fails at one operation, the first of which is number 0, in the way of ``code``."""

    def __init__(self, number: int, code: int) -> None:
        self._left = number
        self._code = code

    def _count(self) -> None:
        if self._left == 0:
            raise OSError(self._code, os.strerror(self._code))
        self._left -= 1

    def make_directory(self, path: Path) -> None:
        self._count()
        super().make_directory(path)

    def append(self, descriptor: int, data: memoryview) -> None:
        self._count()
        super().append(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._count()
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("form", FORMATS)
def test_a_fault_at_any_operation_leaves_nothing(tree: Any, tmp_path: Path, form: str, code: int) -> None:
    path, said = tmp_path / NAMES[form], set[type[Exception]]()
    for number in range(1000):
        storage = Failing(number, code)
        try:
            write(tree, format_named(form), path, Writing(), storage=storage)
        except (StorageFull, TargetNotWritable) as error:
            said.add(type(error))
            left = [entry.name for entry in tmp_path.iterdir()]
            if left:  # the new name was not made durable: then the whole is there
                assert left == [path.name]
                assert differences(nasty(), resilient.load(path)) == []
                break
        else:
            break
    assert 3 < number < 999, "it has failed at every operation, and then no more"
    assert said == {StorageFull if code == errno.ENOSPC else TargetNotWritable}
    assert differences(nasty(), resilient.load(path)) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_source_that_cannot_be_read_leaves_nothing(tree: Any, tmp_path: Path, form: str) -> None:
    class Damaged(LazyTensor):
        def read(self) -> torch.Tensor:
            raise CheckpointUnreadable("the disk has lost it")

    def damage(path: str, value: Any) -> Any:
        return Damaged(value.dtype, value.shape) if path == "optimizer.state.0.exp_avg" else value

    with pytest.raises(CheckpointUnreadable, match="the disk has lost it"):
        write(changed(tree, damage), format_named(form), tmp_path / NAMES[form], Writing())
    assert list(tmp_path.iterdir()) == []


class Forgetful(Storage):
    """A disk that says it has written what it has not."""

    def append(self, descriptor: int, data: memoryview) -> None:
        wrong = bytearray(data)
        if len(wrong) == 48:  # the elements of the tied tensor
            wrong[17] ^= 1
        super().append(descriptor, memoryview(wrong))


def test_what_reads_back_as_something_else_is_not_left_there(tree: Any, tmp_path: Path) -> None:
    for form in ("torch", "safetensors"):
        with pytest.raises(TargetNotWritable, match=r"reads back as something else.*model\.embed\.weight"):
            write(tree, format_named(form), tmp_path / NAMES[form], Writing(), storage=Forgetful())
    assert list(tmp_path.iterdir()) == []


class Killing(Storage):
    """Kills its own process at an append."""

    def __init__(self, number: int) -> None:
        self._left = number

    def append(self, descriptor: int, data: memoryview) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        super().append(descriptor, data)


@pytest.mark.parametrize("form", THROUGH_STORAGE)
def test_a_process_that_is_killed_leaves_nothing_under_the_name(tree: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / NAMES[form]
    child = os.fork()
    if child == 0:
        write(tree, format_named(form), path, Writing(), storage=Killing(1 if form == "resilient" else 5))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.glob(".*.convert-*"))) == 1, "what it has left is hidden"
    write(tree, format_named(form), path, Writing())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "and is removed by the next one"


def test_what_somebody_else_is_writing_is_left_to_him(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"

    class Meanwhile(Storage):
        def rename(self, source: Path, target: Path) -> None:
            write({"model": tree["model"]}, format_named("torch"), path, Writing())
            super().rename(source, tmp_path / "other.pt")

    write(tree, format_named("torch"), path, Writing(), storage=Meanwhile())
    assert differences(nasty(), resilient.load(tmp_path / "other.pt")) == []


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_is_not_replaced(tree: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / NAMES[form]
    path.symlink_to("nowhere")
    with pytest.raises(TargetNotWritable, match="is there already"):
        write(tree, format_named(form), path, Writing())
    assert path.is_symlink()


def test_no_room_is_said_before_anything_is_written(tree: Any, tmp_path: Path) -> None:
    class Small(Storage):
        def free_bytes(self, path: Path) -> int:
            return 1000

    with pytest.raises(StorageFull, match="bytes are needed"):
        write(tree, format_named("torch"), tmp_path / "x.pt", Writing(), storage=Small())
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_terminated_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nasty(), tmp_path / "a.pt")
    monkeypatch.setattr(Storage, "sync", lambda _self, _descriptor: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")])
    assert ended.value.code == 143
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]
