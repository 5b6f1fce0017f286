"""What a run of several nodes needs of its directory."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.doctor.finding import Level
from resilient.doctor.mounts import Mount
from resilient.doctor.several import judge_place
from resilient.doctor.world import World
from resilient.policy.nodes import NodeSettings
from tests.doctor.worlds import check, look, subject

CLAIM = check("nodes.claim")


def two_nodes(directory: Path) -> World:
    return World(replace(subject(directory), nodes=NodeSettings(2)))


def test_one_node_is_asked_nothing_of_the_kind(tmp_path: Path) -> None:
    for name in ("nodes.claim", "nodes.shared"):
        assert check(name).look(World(subject(tmp_path))) is None
        assert check(name).look(World()) is None
        assert check(name).look(two_nodes(tmp_path)) is not None


def test_the_lead_can_be_claimed_once_on_an_ordinary_disk(tmp_path: Path) -> None:
    assert look(CLAIM, two_nodes(tmp_path)).level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_a_filesystem_without_hard_links_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # as vfat does, which no container can mount
    finding = look(CLAIM, two_nodes(tmp_path))
    assert finding.level is Level.PROBLEM
    assert "makes no hard links" in finding.sentence


@pytest.mark.parametrize(
    ("kind", "level"),
    [("nfs4", Level.OK), ("lustre", Level.OK), ("fuse.juicefs", Level.NOTE), ("ext4", Level.WARNING)],
)
def test_other_nodes_must_have_the_directory(kind: str, level: Level) -> None:
    found = judge_place(Mount(Path("/runs"), kind), "/runs/mine")
    assert found.level is level
    assert kind in found.sentence
