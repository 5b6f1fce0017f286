"""Lightning's loop, interrupted wherever it may be, ends in the same bits."""

from __future__ import annotations

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

pytest.importorskip("lightning")

# An epoch has 30 of the data's 38 batches and 15 steps, with a validation in the middle of the 8th and after the 15th.
SETTINGS = ("train.epochs=3", "snapshot.every_steps=20", "train.limit=0.8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Example:
    case = in_peace(make_workspace(tmp_path_factory.mktemp("lightning")), "lightning", *SETTINGS)
    metrics = case.metrics()
    assert len(case.losses()) == case.last() == 45
    assert {(15, "val_loss"), (8, "val_loss"), (15, "train_loss_epoch")} <= set(metrics)
    assert (7, "val_loss") not in metrics
    return case


def test_killed_in_the_middle_of_epochs_and_around_a_validation(workspace: Workspace, whole: Example) -> None:
    case = killed(workspace, whole, [*somewhere(2, 13, 1), 14, *somewhere(18, 43, 1)])
    assert all(launch["source"] == "memory" for launch in case.journal("LaunchRound")[1:])
    case.assert_same_as(whole)


def test_resumed_at_the_end_of_an_epoch_that_left_data_over(workspace: Workspace, whole: Example) -> None:
    settings = [*whole.settings, "snapshot.memory_every_steps=15", "snapshot.every_steps=15"]  # nothing between
    case = killed(workspace, Example(whole.workspace, whole.run_id, settings, conf=whole.conf), somewhere(18, 28, 1))
    assert case.journal("LaunchRound")[1]["step"] == 15
    case.assert_same_as(whole)


def test_preempted_in_a_validation(workspace: Workspace, whole: Example) -> None:
    settings = [*whole.settings, "train.validation_seconds=0.5"]
    slower = Example(whole.workspace, whole.run_id, settings, conf=whole.conf)
    case = preempted(workspace, slower, in_evaluation_after(20))
    assert "finished with" not in case.paths.log(0, 0).read_text(), "the script took it for the end"
    case.assert_same_as(whole)


def test_on_two_ranks(workspace: Workspace, tmp_path: Path) -> None:
    """By DistributedDataParallel; an epoch has 19 batches of each rank and 10 steps."""
    whole = on_two_ranks(
        workspace, tmp_path, "lightning", *SETTINGS, "train.limit=1", kill=somewhere(2, 8, 1)[0], preempt=14
    )
    assert whole.losses(0) != whole.losses(1)
    assert whole.last() == 30
