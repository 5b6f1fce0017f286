"""Loaders that keep their own place, of torchdata and Hugging Face datasets, go on where they were."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.integrations.examples import at_step, in_peace, killed, preempted, somewhere
from tests.run.conftest import make_workspace
from tests.run.harness import Workspace

KEPT = ("model", "optimizer", "position")  # the script does not draw from the other generators, and does not seed them
pytest.importorskip("torchdata")
pytest.importorskip("datasets")


def require_streaming() -> None:
    """What it imports may not load: torchvision, beside another build of torch."""
    try:
        importlib.import_module("streaming")
    except Exception as error:  # noqa: BLE001  whatever the reason is, the skip says it
        pytest.skip(f"streaming cannot be imported: {error}")


@pytest.mark.parametrize(("source", "workers"), [("torchdata", 2), ("datasets", 2), ("streaming", 1)])
def test_killed_and_preempted_in_the_middle_of_an_epoch(
    workspace: Workspace, tmp_path: Path, source: str, workers: int
) -> None:
    """An epoch has 25 batches, and of the stream from two workers 26: each has half of the samples."""
    if source == "streaming":
        require_streaming()
    (tmp_path / "whole").mkdir()
    settings = ("train.steps=40", f"train.source={source}", f"train.workers={workers}")
    whole = in_peace(make_workspace(tmp_path / "whole"), "data", *settings)
    assert len(whole.losses()) == 40
    killed(workspace, whole, somewhere(2, 38, 1)).assert_same_as(whole, KEPT)
    preempted(workspace, whole, at_step(somewhere(20, 32, 1)[0])).assert_same_as(whole, KEPT)
