"""Which machines a run keeps off, and for how long."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from resilient.errors import ExitCode, RunDirectoryNotWritable, UntrustedNode
from resilient.protocol.distrusted import LASTS_SECONDS, Distrusted, distrust, distrusted, require_trust
from resilient.protocol.paths import RunPaths, hostname


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def test_nobody_at_first(paths: RunPaths) -> None:
    assert distrusted(paths) == ()
    require_trust(paths)


def test_this_machine_for_a_week(paths: RunPaths) -> None:
    found = distrust(paths, "loss of step 5", 3, now=1000.0)
    assert found == Distrusted(hostname(), "loss of step 5", 3, 1000.0, 1000.0 + LASTS_SECONDS)
    assert distrusted(paths, 1001.0) == (found,)
    with pytest.raises(UntrustedNode, match="loss of step 5") as caught:
        require_trust(paths, 1001.0)
    assert caught.value.exit_code is ExitCode.UNTRUSTED_NODE
    assert "run.trust_node=true" in caught.value.remedy
    assert distrusted(paths, found.until) == ()
    require_trust(paths, found.until)


def test_others_stay_and_the_same_one_is_there_once(paths: RunPaths) -> None:
    other = {"host": "other", "reason": "r", "incident": 1, "since": 0.0, "until": 5000.0}
    expired = {**other, "host": "expired", "until": 10.0}
    paths.distrusted.write_text(json.dumps({"format": 1, "nodes": [other, expired]}))
    require_trust(paths, 100.0)
    distrust(paths, "once", 1, now=100.0)
    distrust(paths, "again", 2, now=200.0)
    assert [(found.host, found.reason) for found in distrusted(paths, 300.0)] == [("other", "r"), (hostname(), "again")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": 2, "nodes": []}',
        '{"format": 1, "nodes": [1]}',
        '{"format": 1, "nodes": [{"host": "a", "reason": "", "incident": 1, "since": 0, "until": Infinity}]}',
        '{"format": 1, "nodes": [{"host": "a"}]}',
    ],
)
def test_what_cannot_be_read_is_an_error_and_is_not_lost(paths: RunPaths, text: str) -> None:
    paths.distrusted.write_text(text)
    with pytest.raises(ValueError, match=r"distrusted\.json"):
        distrusted(paths)
    found = distrust(paths, "r", 1)
    assert distrusted(paths) == (found,)
    assert paths.distrusted.with_suffix(".unreadable").read_text() == text


def test_a_file_that_is_too_large_is_not_read(paths: RunPaths) -> None:
    with paths.distrusted.open("wb") as stream:
        os.truncate(stream.fileno(), 2 << 20)
    with pytest.raises(ValueError, match="more than"):
        distrusted(paths)


def test_nowhere_to_write_it_down(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryNotWritable, match=r"distrusted\.json"):
        distrust(RunPaths(tmp_path / "missing"), "r", 1)
