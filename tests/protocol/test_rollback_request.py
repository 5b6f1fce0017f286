"""Asking a run that is up for a rollback: taken once, answered to the one who asked, and refused when it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resilient.protocol.paths import RunPaths
from resilient.protocol.rollback_request import (
    RollbackAnswer,
    RollbackRequest,
    answer,
    ask,
    read_answer,
    take_request,
    withdraw,
)

REQUEST = RollbackRequest("one", 120, (121, 140), 0.5)
OTHER = RollbackRequest("other", None)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "run")
    paths.create()
    return paths


@pytest.mark.parametrize("request_", [REQUEST, OTHER])
def test_a_request_is_taken_once_and_as_it_was_asked(paths: RunPaths, request_: RollbackRequest) -> None:
    assert take_request(paths) is None
    ask(paths, request_)
    assert take_request(paths) == request_
    assert take_request(paths) is None
    assert list(paths.root.glob(".*")) == []


def test_an_answer_is_for_the_one_who_asked(paths: RunPaths) -> None:
    assert read_answer(paths, REQUEST) is None
    given = RollbackAnswer("one", accepted=True, target=120)
    answer(paths, given)
    assert read_answer(paths, REQUEST) == given
    assert read_answer(paths, OTHER) is None
    refused = RollbackAnswer("other", accepted=False, why="there is no good snapshot")
    answer(paths, refused)
    assert read_answer(paths, OTHER) == refused


def test_a_request_is_withdrawn_only_by_the_one_who_asked_and_only_while_it_waits(paths: RunPaths) -> None:
    ask(paths, REQUEST)
    assert not withdraw(paths, OTHER)
    assert withdraw(paths, REQUEST)
    assert take_request(paths) is None
    assert not withdraw(paths, REQUEST)


VALID: dict[str, Any] = {"id": "one", "target": 120, "skip": [121, 140], "lr_factor": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"target": -1},
        {"target": "120"},
        {"target": True},
        {"skip": [140, 121]},
        {"skip": [3]},
        {"skip": 7},
        {"lr_factor": 0.0},
        {"lr_factor": "nan"},
        {"id": ""},
    ],
)
def test_what_is_no_request_is_said_to_be_none_and_is_gone(paths: RunPaths, change: dict[str, Any]) -> None:
    paths.rollback_request.write_text(json.dumps({**VALID, **change}))
    with pytest.raises(ValueError, match="request"):
        take_request(paths)
    assert take_request(paths) is None


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "null", '{"id": "one"}'])
def test_a_damaged_file_is_no_request_and_no_answer(paths: RunPaths, text: str) -> None:
    for path in (paths.rollback_request, paths.rollback_answer):
        path.write_text(text)
    assert read_answer(paths, REQUEST) is None
    assert not withdraw(paths, REQUEST)
    with pytest.raises(ValueError):
        take_request(paths)
