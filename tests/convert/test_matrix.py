"""Every format becomes every other, and the loader of whoever made that one finds the same tensors in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_dcp
from torch.distributed.checkpoint.state_dict_saver import save as save_dcp

import resilient
from resilient.convert.dcp import SnapshotReader
from resilient.snapshot import catalog
from tests.convert.states import NAMES, bits, convert, differences, made, nasty
from tests.processes import in_ranks
from tests.spread import Training, mesh_of, snapshot_of_ranks

FORMATS = tuple(NAMES)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {form: made(folder, form) for form in FORMATS}


def _flat(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {
        name: tensor
        for key, item in items
        for name, tensor in _flat(item, f"{path}.{key}" if path else str(key)).items()
    }


def _as_torch(path: Path) -> None:
    found = torch.load(path, weights_only=True)
    assert differences(nasty(), found) == []
    assert found["model"]["embed.weight"].data_ptr() == found["model"]["head.weight"].data_ptr()
    assert found["model"]["conv"].is_contiguous(memory_format=torch.channels_last)
    assert differences(nasty(), torch.load(path, weights_only=True, mmap=True)) == []


def _as_safetensors(path: Path) -> None:
    found = safetensors.torch.load_file(path)
    wanted = _flat(nasty())
    assert found.keys() == wanted.keys()
    assert all(
        bits(found[name]) == bits(tensor) and found[name].shape == tensor.shape for name, tensor in wanted.items()
    )


def _as_dcp(path: Path, reader: Any = None) -> None:
    """Load it into a state of the same form with other values, as a script does."""
    wanted = nasty()
    state = {name: dict(wanted[name]) for name in ("model", "optimizer", "scheduler")}
    state["model"] = {name: torch.zeros_like(tensor) for name, tensor in state["model"].items()}
    moments = {name: torch.zeros_like(tensor) for name, tensor in wanted["optimizer"]["state"][0].items()}
    groups = [dict.fromkeys(wanted["optimizer"]["param_groups"][0])]
    state["optimizer"] = {"state": {0: moments}, "param_groups": groups}
    state["scheduler"] = dict.fromkeys(("last_epoch", "_last_lr", "large"))
    load_dcp(state, storage_reader=reader or FileSystemReader(path))
    del wanted["optimizer"]["state"][1], wanted["scheduler"]["milestones"]
    assert differences(dict(wanted["model"]), state["model"]) == []
    assert differences(wanted["optimizer"], state["optimizer"]) == []
    assert differences(wanted["scheduler"], {name: state["scheduler"][name] for name in wanted["scheduler"]}) == []


def _as_resilient(path: Path) -> None:
    assert catalog.verify(path).world_size == 1
    _as_dcp(path, SnapshotReader(path))


LOADERS = {"torch": _as_torch, "safetensors": _as_safetensors, "dcp": _as_dcp, "resilient": _as_resilient}


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_each_becomes_each(sources: dict[str, Path], tmp_path: Path, source: str, target: str) -> None:
    path = tmp_path / NAMES[target]
    assert convert(sources[source], path, target) == ()
    LOADERS[target](path)
    found = resilient.load(path)
    assert differences(nasty(), found) == []
    model = found["model"]
    assert model["embed.weight"] is model["head.weight"] is found["data"]["tuple"][1][0], "still one tensor"
    assert model["conv"].stride() == nasty()["model"]["conv"].stride()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "and nothing else is there"


def test_several_files_are_one_state(sources: dict[str, Path], tmp_path: Path) -> None:
    convert(sources["dcp"], tmp_path / "parts", "safetensors", shard_size=100)
    assert len(list((tmp_path / "parts").glob("model-*-of-*.safetensors"))) > 5
    convert(tmp_path / "parts", tmp_path / "state.pt", "torch")
    _as_torch(tmp_path / "state.pt")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    return snapshot_of_ranks(tmp_path_factory.mktemp("two"), (2,))


@pytest.mark.parametrize("form", FORMATS)
def test_what_ranks_have_in_parts_is_put_together(
    by_two: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, form: str
) -> None:
    path, wholes = by_two
    target = tmp_path / NAMES[form]
    convert(path, target, form)
    found = resilient.load(target)
    assert differences(wholes, _flat(found)) == []
    training = Training(None, 9)
    training.step(50, 0)
    training.model.load_state_dict(found["model"])
    training.optimizer.load_state_dict(found["optimizer"])
    assert differences(wholes, training.wholes()) == []


def _saved_by_two(rank: int, path: Path) -> dict[str, torch.Tensor]:
    training = Training(mesh_of((2,)), 0)
    training.step(0, rank)
    state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict(), "epoch": 3}
    save_dcp(state, storage_writer=FileSystemWriter(path))
    return training.wholes()


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("fsdp")
    wholes, _ = in_ranks(2, folder, _saved_by_two, folder / "dcp")
    return folder / "dcp", wholes


@pytest.mark.parametrize("form", FORMATS)
def test_what_fsdp_saves_from_two_ranks_with_dcp(
    fsdp: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, form: str
) -> None:
    path, wholes = fsdp
    convert(path, tmp_path / NAMES[form], form)
    found = resilient.load(tmp_path / NAMES[form])
    assert found.pop("epoch") == 3
    assert differences(dict(sorted(wholes.items())), dict(sorted(_flat(found).items()))) == []
    training = Training(None, 9)
    training.step(50, 0)
    training.optimizer.load_state_dict(found["optimizer"])
