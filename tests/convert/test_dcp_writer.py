"""What torch.distributed.checkpoint saves becomes a snapshot, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys
from torch.distributed.checkpoint.state_dict_saver import save

from resilient.cli import main
from resilient.convert.dcp import SnapshotReader, SnapshotWriter
from resilient.errors import UsageError
from resilient.snapshot import catalog
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.export import export_object
from tests.processes import in_ranks
from tests.spread import Training, mesh_of

Tensors = dict[str, torch.Tensor]


def _saved(rank: int, path: Path) -> Tensors:
    training = Training(mesh_of((2,)), 0)
    for number in range(2):
        training.step(number, rank)
    model, optimizer = get_state_dict(training.model, training.optimizer)
    state = {"model": model, "optimizer": optimizer, "epoch": 7, "rank": {"betas": (0.5, float("inf"))}}
    save(state, storage_writer=SnapshotWriter(path, run_id="demo"))
    return training.wholes()


def test_two_ranks_save_and_one_process_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "demo" / "snapshots" / "step-000000012"
    wholes, _ = in_ranks(2, tmp_path, _saved, path)
    manifest = catalog.verify(path)
    assert (manifest.step, manifest.world_size, manifest.run_id) == (12, 2, "demo")
    assert manifest.tensors["model.hidden.weight"].shape == (5, 6)
    assert [file.name for file in path.parent.iterdir()] == ["step-000000012"], "nothing else is left"
    monkeypatch.chdir(tmp_path)
    assert main(["snapshots", "verify", "run=demo"]) == 0
    assert "every byte is as it was written" in capsys.readouterr().out

    found: dict[str, Any] = _load_state_dict_from_keys(storage_reader=SnapshotReader(path))
    assert all(torch.equal(found["model"][name], wholes[f"model.{name}"]) for name in found["model"])
    assert found["model"].keys() == Training(None, 1).model.state_dict().keys()
    moment = found["optimizer"]["state"]["hidden.weight"]["exp_avg"]
    assert torch.equal(moment, wholes["optimizer.state.1.exp_avg"])
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert (found["epoch"], found["rank"]) == (7, {"betas": (0.5, float("inf"))})
    export_object(LocalCopy(path), "model", tmp_path / "model.safetensors")


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "step-000000003"
    save({"x": torch.ones(3)}, storage_writer=SnapshotWriter(path))
    before = catalog.verify(path)
    with pytest.raises(CheckpointException, match="is there already"):
        save({"x": torch.zeros(3)}, storage_writer=SnapshotWriter(path))
    assert catalog.verify(path) == before
    with pytest.raises(UsageError, match="another step"):
        SnapshotWriter(path, step=4)


def test_what_needs_pickle_leaves_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "step-000000003"
    with pytest.raises(CheckpointException, match="without pickle"):
        save({"path": Path("x")}, storage_writer=SnapshotWriter(path))
    assert not path.exists()
    save({"x": torch.ones(3)}, storage_writer=SnapshotWriter(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nor anything, once it has succeeded"
