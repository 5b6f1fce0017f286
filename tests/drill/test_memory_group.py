"""Control groups of both versions, as directories that look like them, and the one there is here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resilient.drill.memory_group import MemoryGroup
from resilient.errors import FaultNotInjected


def system(tmp_path: Path, membership: str) -> tuple[Path, Path]:
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "self").write_text(membership)
    return tmp_path / "cgroup", tmp_path / "self"


def test_no_control_groups(tmp_path: Path) -> None:
    with pytest.raises(FaultNotInjected, match="no control groups"):
        MemoryGroup.make("x", tmp_path, tmp_path / "missing")


def test_none_that_limits_memory(tmp_path: Path) -> None:
    root, membership = system(tmp_path, "3:cpu:/\n0::/\n")
    with pytest.raises(FaultNotInjected, match="limits memory"):
        MemoryGroup.make("x", root, membership)


def test_version_2_without_the_right_to_limit_leaves_nothing(tmp_path: Path) -> None:
    root, membership = system(tmp_path, "0::/user.slice\n")
    (root / "cgroup.controllers").touch()
    (root / "user.slice").mkdir()
    with pytest.raises(FaultNotInjected, match="no memory limit of their own"):
        MemoryGroup.make("x", root, membership)
    assert list((root / "user.slice").iterdir()) == []


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    root, membership = system(tmp_path, "4:memory:/somewhere/else\n")
    with pytest.raises(FaultNotInjected, match="somewhere/else: No such file"):
        MemoryGroup.make("x", root, membership)


@pytest.mark.parametrize(("version", "limit", "none"), [(1, "memory.limit_in_bytes", "-1"), (2, "memory.max", "max")])
def test_lifting_the_limit(tmp_path: Path, version: int, limit: str, none: str) -> None:
    group = MemoryGroup(tmp_path, version)
    group.limit.write_text("1000")
    group.lift()
    assert (tmp_path / limit).read_text() == none


def test_the_kernel_keeps_the_limit_of_a_real_one() -> None:
    try:
        group = MemoryGroup.make("resilient-test-group")
    except FaultNotInjected as error:
        pytest.skip(f"needs the right to make a control group: {error}")
    try:
        group.limit.write_text(str(64 << 20))
        hog = [sys.executable, "-c", "held = b'x' * (256 << 20)"]
        assert subprocess.run(hog, preexec_fn=group.enter, check=False).returncode == -9
        group.lift()
        assert subprocess.run(hog, preexec_fn=group.enter, check=False).returncode == 0
    finally:
        group.remove()
    assert not group.path.exists()
