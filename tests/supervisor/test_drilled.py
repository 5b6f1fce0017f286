"""A disk that is full on demand."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from resilient.errors import StorageFull
from resilient.supervisor.drilled import FullStorage


def test_full_while_the_switch_is_there(tmp_path: Path) -> None:
    storage = FullStorage(lambda _: None, lambda: False, tmp_path / "switch")
    storage.start(0.0)
    storage.write(tmp_path / "before", lambda write: write(memoryview(b"x" * 4096)))
    (tmp_path / "switch").touch()
    with pytest.raises(StorageFull) as caught:
        storage.write(tmp_path / "full", lambda write: write(memoryview(b"x" * 4096)))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    (tmp_path / "switch").unlink()
    storage.write(tmp_path / "after", lambda write: write(memoryview(b"x" * 4096)))
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()
