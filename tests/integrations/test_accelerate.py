"""What Accelerate has prepared, interrupted wherever it may be, ends in the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.examples import at_step, in_peace, killed, on_two_ranks, preempted, somewhere
from tests.run.conftest import make_workspace
from tests.run.harness import Workspace

pytest.importorskip("accelerate")


def test_killed_and_preempted_between_two_optimizer_steps(workspace: Workspace, tmp_path: Path) -> None:
    """An epoch has 25 batches; three are accumulated, and the last alone: 100 are four epochs."""
    (tmp_path / "whole").mkdir()
    settings = ("snapshot.every_steps=20", "train.precision=bf16", "train.workers=1")
    whole = in_peace(make_workspace(tmp_path / "whole"), "accelerate", *settings)
    assert len(whole.losses()) == 100
    case = killed(workspace, whole, [*somewhere(6, 23, 1), *somewhere(30, 95, 1)])
    resumed = [launch["step"] for launch in case.journal("LaunchRound")[1:]]
    assert all(int(str(step or 0)) % 25 % 3 == 0 for step in resumed), "never with half a gradient"
    case.assert_same_as(whole)
    # At the end of an epoch, or a few steps into the next.
    preempted(workspace, whole, at_step(75)).assert_same_as(whole)


def test_on_two_ranks(workspace: Workspace, tmp_path: Path) -> None:
    """An epoch has 13 batches of each rank."""
    settings = ("snapshot.every_steps=20", "train.steps=60")
    whole = on_two_ranks(workspace, tmp_path, "accelerate", *settings, kill=somewhere(4, 20, 1)[0], preempt=30)
    assert whole.losses(0) != whole.losses(1)
