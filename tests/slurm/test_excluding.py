from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient.protocol.paths import RunPaths
from resilient.slurm.excluding import EXCLUDED, distrusted_hosts, excluded_by_us, to_exclude


@pytest.mark.parametrize(
    ("listed", "ours", "distrusted", "wanted"),
    [
        ("", (), (), None),
        ("", (), ("n1",), "n1"),
        ("n[3-4]", (), ("n1",), "n3,n4,n1"),  # what the user excludes stays
        ("n[1,3]", ("n1",), ("n1",), None),  # it has it already
        ("n[1,3]", ("n1",), (), "n3"),  # trusted again
        ("n1", ("n1",), (), ""),
        ("n1", (), (), None),  # the user's, whatever we think of it
        ("n[1-", (), ("n1",), None),  # not understood, so not overwritten
    ],
)
def test_the_list_that_a_job_should_have(
    listed: str, ours: tuple[str, ...], distrusted: tuple[str, ...], wanted: str | None
) -> None:
    assert to_exclude(listed, ours, distrusted) == wanted


def test_the_journal_knows_which_of_them_are_ours() -> None:
    entries = [
        {"name": EXCLUDED, "job": 7, "nodes": ["n1"]},
        {"name": EXCLUDED, "job": 7, "nodes": ["n1", "n2"]},
        {"name": EXCLUDED, "job": 8, "nodes": ["n9"]},
        {"name": EXCLUDED, "job": 7, "nodes": "n5"},
    ]
    assert excluded_by_us(entries, 7) == {"n1", "n2"}
    assert excluded_by_us([], 7) == frozenset()


def test_distrust_expires_and_a_node_has_the_name_that_slurm_gives_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    known = {"reason": "a test", "incident": 1, "since": 0.0}
    nodes = [{"host": "here", "until": 100.0, **known}, {"host": "there", "until": 200.0, **known}]
    paths.distrusted.write_text(json.dumps({"format": 1, "nodes": nodes}))
    assert distrusted_hosts(paths, "here", wall=lambda: 50.0)("n1") == ["n1", "there"]
    assert distrusted_hosts(paths, "here", wall=lambda: 150.0)("n1") == ["there"]
    assert distrusted_hosts(paths, "here", wall=lambda: 50.0)("") == ["here", "there"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"nodes": [{"host": "n1"}]}', '{"nodes": 3}'])
def test_without_a_readable_file_nobody_is_distrusted(tmp_path: Path, content: str | None) -> None:
    paths = RunPaths(tmp_path)
    if content is not None:
        paths.distrusted.write_text(content)
    assert distrusted_hosts(paths, "here")("n1") == []
