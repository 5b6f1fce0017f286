"""Whether a checkpoint of somebody else's is complete, without loading it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from resilient.snapshot.foreign import find_defect

STATE = {"model": torch.arange(1000.0), "epoch": 3}


def late(path: Path) -> float:
    """Long after the last write."""
    return path.stat().st_mtime + 60.0


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": list(range(100))}))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.pt": lambda path: torch.save(STATE, path),
    "a.pkl": pickled,
    "a.safetensors": lambda path: safetensors.torch.save_file({"w": torch.arange(100.0)}, path),
    "a.npz": lambda path: np.savez(path, a=np.arange(100)),
    "a.json": lambda path: path.write_text(json.dumps(list(range(100)))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_cut_anywhere_is_not_complete(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert find_defect(path, ended=late(path)) is None
    whole = path.read_bytes()
    for part in (0.0, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert find_defect(path, ended=late(path)) is not None, f"cut after {part}"


def test_formats_that_show_no_end_have_to_have_been_left_alone(tmp_path: Path) -> None:
    for name in ("a.pt", "weights.h5"):
        path = tmp_path / name
        torch.save(STATE, path, _use_new_zipfile_serialization=False) if name == "a.pt" else path.write_bytes(
            b"\x89HDF"
        )
        assert find_defect(path, ended=late(path)) is None
        assert find_defect(path, ended=path.stat().st_mtime + 0.5) is not None


def test_temporary_names(tmp_path: Path) -> None:
    for name in ("a.pt.tmp", "tmp-checkpoint-5", "a.pt.part"):
        WRITERS["a.pt"](tmp_path / name)
        assert find_defect(tmp_path / name, ended=late(tmp_path / name)) is not None


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "exploded"), "w")

    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    directory = tmp_path / "dcp"
    directory.mkdir()
    (directory / ".metadata").write_bytes(pickle.dumps(Bomb()))
    find_defect(path, ended=late(path))
    find_defect(directory, ended=late(path))
    assert not (tmp_path / "exploded").exists()


def test_transformers_directory(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-500"
    path.mkdir()

    def defect() -> str | None:
        return find_defect(path, ended=late(path))

    assert defect() is not None
    WRITERS["a.safetensors"](path / "model.safetensors")
    torch.save(STATE, path / "optimizer.pt")
    assert "trainer_state.json" in str(defect())
    (path / "trainer_state.json").write_text('{"global_step": 500}')
    assert defect() is None
    (path / "optimizer.pt").write_bytes((path / "optimizer.pt").read_bytes()[:500])
    assert "optimizer.pt" in str(defect())
    torch.save(STATE, path / "optimizer.pt")
    (path / "model.safetensors").unlink()
    assert "no model" in str(defect())
    WRITERS["a.safetensors"](path / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert "00002-of-00002" in str(defect())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_distributed_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "step-5"
    dcp.save({"w": torch.arange(10.0)}, checkpoint_id=path)  # type: ignore[attr-defined]  # torch's stubs
    assert find_defect(path, ended=late(path)) is None
    metadata = (path / ".metadata").read_bytes()
    (path / ".metadata").write_bytes(metadata[: len(metadata) // 2])
    assert find_defect(path, ended=late(path)) == ".metadata is cut short"
    (path / ".metadata").write_bytes(metadata)
    next(path.glob("*.distcp")).unlink()
    assert "is missing" in str(find_defect(path, ended=late(path)))


def test_torchsnapshot_directory(tmp_path: Path) -> None:
    path = tmp_path / "4442b196-1b72-432e-b192-c589bf57aa5c"
    blob = path / "0" / "model" / "weight"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"numbers")
    now = blob.stat().st_mtime
    assert "still being written" in str(find_defect(path, ended=now))
    (path / ".snapshot_metadata").write_text(json.dumps({"version": "0.1.0", "world_size": 1, "manifest": {}}))
    assert find_defect(path, ended=now) is None
    (path / ".snapshot_metadata").write_text('{"version": ')
    assert "cut short" in str(find_defect(path, ended=now))


def test_other_directories(tmp_path: Path) -> None:
    path = tmp_path / "state_5"
    path.mkdir()
    assert find_defect(path, ended=late(path)) == "it is empty"
    torch.save(STATE, path / "a.pt")
    (path / "marker").touch()
    assert find_defect(path, ended=late(path)) is None
    assert find_defect(tmp_path / "gone", ended=0.0) is not None
