"""Loaders that keep their own place, of torchdata and Hugging Face datasets, go on where they were."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.integrations.examples import at_step, in_peace, killed, preempted, somewhere
from tests.run.conftest import make_workspace
from tests.run.harness import Workspace

KEPT = ("model", "optimizer", "position")  # the script does not draw from the other generators, and does not seed them
pytest.importorskip("torchdata")
pytest.importorskip("datasets")


# Not part of the development environment: it imports torchvision, whose wheel does not load beside a torch for the CPU.
STREAMING = [("streaming", 1)] if importlib.util.find_spec("streaming") else []


@pytest.mark.parametrize(("source", "workers"), [("torchdata", 2), ("datasets", 2), *STREAMING])
def test_killed_and_preempted_in_the_middle_of_an_epoch(
    workspace: Workspace, tmp_path: Path, source: str, workers: int
) -> None:
    """An epoch has 25 batches, and of the stream from two workers 26: each has half of the samples."""
    (tmp_path / "whole").mkdir()
    settings = ("train.steps=40", f"train.source={source}", f"train.workers={workers}")
    whole = in_peace(make_workspace(tmp_path / "whole"), "data", *settings)
    assert len(whole.losses()) == 40
    # Of one place in a stream, datasets has several ways to speak: how many rows of which shard, and how many to skip.
    kept = KEPT[:2] if source == "datasets" else KEPT
    killed(workspace, whole, somewhere(2, 38, 1)).assert_same_as(whole, kept)
    preempted(workspace, whole, at_step(somewhere(20, 32, 1)[0])).assert_same_as(whole, kept)
