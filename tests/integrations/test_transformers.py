"""Hugging Face's Trainer, interrupted wherever it may be, ends in the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integrations.examples import (
    Example,
    in_evaluation_after,
    in_peace,
    killed,
    on_two_ranks,
    preempted,
    somewhere,
)
from tests.run.conftest import make_workspace
from tests.run.harness import Workspace

pytest.importorskip("transformers")

# An epoch has 20 steps of two batches but the last, of one; after every 7 steps the loss is logged, after 15 evaluated.
SETTINGS = ("train.epochs=2", "snapshot.every_steps=20")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Example:
    case = in_peace(make_workspace(tmp_path_factory.mktemp("transformers")), "transformers", *SETTINGS)
    assert len(case.losses()) == case.last() == 40
    assert {(7, "grad_norm"), (15, "eval_loss"), (40, "eval_loss")} <= set(case.metrics())
    return case


def test_killed_in_the_middle_of_epochs_and_between_two_loggings(workspace: Workspace, whole: Example) -> None:
    case = killed(workspace, whole, [*somewhere(2, 14, 1), 20, *somewhere(24, 38, 1)])
    case.assert_same_as(whole)
    launched = case.journal("LaunchRound")
    assert all(launch["source"] == "memory" for launch in launched[1:])
    assert f"goes on after step {launched[1]['step']}, epoch" in case.paths.log(1, 0).read_text()


def test_preempted_in_an_evaluation(workspace: Workspace, whole: Example) -> None:
    settings = "train.evaluation_seconds=0.05"
    slower = Example(whole.workspace, whole.run_id, [*whole.settings, settings], conf=whole.conf)
    case = preempted(workspace, slower, in_evaluation_after(14))
    assert "finished:" not in case.paths.log(0, 0).read_text(), "the script took it for the end"
    assert "finished:" in case.paths.log(1, 0).read_text()
    case.assert_same_as(whole)
    assert [json.loads(line)["step"] for line in _logged(case)] == [7, 14, 15, 21, 28, 30, 35, 40]


def test_on_two_ranks(workspace: Workspace, tmp_path: Path) -> None:
    """An epoch has 20 batches of each rank and 10 steps."""
    whole = on_two_ranks(workspace, tmp_path, "transformers", *SETTINGS, kill=somewhere(2, 8, 1)[0], preempt=14)
    assert whole.losses(0) != whole.losses(1)
    assert whole.last() == 20


def _logged(case: Example) -> list[str]:
    """The trainer's own log, as it is in the last snapshot."""
    from resilient.snapshot.image import Layout, read_state

    image = case.image(case.last())
    lines: str = read_state(image, Layout.parse(image))["objects"]["trainer"]["log"]
    return lines.splitlines()
