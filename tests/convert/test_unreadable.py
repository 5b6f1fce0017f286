"""What cannot be read is said precisely: which file, which tensor, and what to do. Nothing is run that is in it."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import resilient
from resilient.cli import main
from resilient.convert.opening import open_checkpoint
from resilient.drill.faults import flip_bit
from resilient.errors import CheckpointUnreadable, SnapshotCorrupt, StateError
from tests.convert.states import NAMES, convert, differences, made, nasty

SHARDED = "sharded"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for form in NAMES:
        made(folder, form)
    state = nasty()
    del state["model"]["words"], state["model"]["small"]  # there were no such types in those days
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    convert(folder / NAMES["torch"], folder / SHARDED, "safetensors", shard_size=100)
    return folder


@pytest.fixture
def there(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "there"))


def _cut(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def _edit_index(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    file = path / "model.safetensors.index.json"
    body = json.loads(file.read_bytes())
    change(body["weight_map"])
    file.write_text(json.dumps(body))


def _misplace(weights: dict[str, str]) -> None:
    first, last = sorted(set(weights.values()))[:: len(set(weights.values())) - 1]
    weights |= {name: last for name, file in weights.items() if file == first}


def _other_shape(path: Path) -> None:
    """Files of a checkpoint with other shapes, under the plan of this one."""
    state = nasty()
    state["model"]["embed.weight"] = state["model"]["head.weight"] = torch.zeros(3, 4)
    torch.save(state, path.parent / "other.pt")
    convert(path.parent / "other.pt", path.parent / "other", "dcp")
    (path.parent / "other" / "__0_0.distcp").replace(path / "__0_0.distcp")


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a torch file cut short": (NAMES["torch"], _cut, "state.pt cannot be read"),
    "a legacy file cut short": ("legacy.pt", _cut, "legacy.pt cannot be read"),
    "a flipped bit in a torch file": (
        NAMES["torch"],
        lambda path: flip_bit(path, path.read_bytes().index(nasty()["model"]["embed.weight"].numpy().tobytes())),
        "data/0 does not match its checksum",
    ),
    "safetensors cut short": (NAMES["safetensors"], _cut, "state.safetensors: the image"),
    "a missing shard": (
        SHARDED,
        lambda path: next(path.glob("model-00002*")).unlink(),
        "model-00002.*is not there",
    ),
    "a shard of another checkpoint": (SHARDED, lambda path: _edit_index(path, _misplace), "has no such tensor"),
    "an index that is none": (SHARDED, lambda path: _cut(path / "model.safetensors.index.json"), "no index of tensors"),
    "a missing file of DCP": (
        NAMES["dcp"],
        lambda path: (path / "__0_0.distcp").unlink(),
        "__0_0.distcp is missing, which has",
    ),
    "a file of DCP cut short": (NAMES["dcp"], lambda path: _cut(path / "__0_0.distcp"), "ends before .* does"),
    "files of another DCP checkpoint": (NAMES["dcp"], _other_shape, r"embed\.weight is .*\[3, 4\], and not .*\[4, 3\]"),
    "a flipped bit in a snapshot": (
        NAMES["resilient"],
        lambda path: flip_bit(path / "rank-00000.safetensors", 5000),
        "checksum mismatch",
    ),
    "a missing image": (
        NAMES["resilient"],
        lambda path: (path / "rank-00000.safetensors").unlink(),
        "rank-00000.safetensors cannot be read",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_nothing_written(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, damage, said = DAMAGE[name]
    damage(there / file)
    with pytest.raises((CheckpointUnreadable, SnapshotCorrupt), match=said):
        convert(there / file, tmp_path / "out.pt", "torch")
    assert main(["convert", str(there / file), str(tmp_path / "out.pt")]) in {89, 67}
    assert "Traceback" not in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_a_file_from_before_torch_1_6(there: Path, tmp_path: Path) -> None:
    convert(there / "legacy.pt", tmp_path / "x.safetensors", "safetensors")
    wanted = nasty()
    del wanted["model"]["words"], wanted["model"]["small"]
    assert differences(wanted, resilient.load(tmp_path / "x.safetensors")) == []
    assert "read into memory" in " ".join(open_checkpoint(there / "legacy.pt").notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "the download has failed"),
        (b"", "it is empty"),
        (pickle.dumps({"a": 1}), "a pickle, and not a file of torch.save"),
        (b"GGUF\x03", "GGUF"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_something_else(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointUnreadable, match=said):
        open_checkpoint(tmp_path / "model.safetensors")


def test_a_directory_that_is_none_a_zip_and_one_image_of_several(there: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnreadable, match=r"a directory with by torch\.pt, dcp, legacy\.pt"):
        open_checkpoint(there)
    np.savez(tmp_path / "arrays.npz", x=np.ones(3))
    with pytest.raises(CheckpointUnreadable, match=r"a zip archive without a data\.pkl"):
        open_checkpoint(tmp_path / "arrays.npz")
    with pytest.raises(CheckpointUnreadable, match="one rank's image"):
        resilient.load(there / NAMES["resilient"] / "rank-00000.safetensors")


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _explode, ()


def _explode() -> None:
    Bomb.exploded = True


def test_nothing_in_a_pickle_runs_unless_it_is_allowed(tmp_path: Path, there: Path) -> None:
    torch.save({"w": torch.ones(2), "x": Bomb()}, tmp_path / "bomb.pt")
    with (there / NAMES["dcp"] / ".metadata").open("wb") as stream:
        pickle.dump(Bomb(), stream)
    for path in (tmp_path / "bomb.pt", there / NAMES["dcp"]):
        with pytest.raises(CheckpointUnreadable, match=r"_explode.*") as caught:
            convert(path, tmp_path / "out.safetensors", "safetensors")
        assert "--allow-pickle" in caught.value.remedy
    assert not Bomb.exploded
    resilient.load(tmp_path / "bomb.pt", allow_pickle=True)
    assert Bomb.exploded


def test_objects_go_from_pickle_to_pickle_where_that_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"w": torch.ones(2), "args": argparse.Namespace(lr=0.1), "best": np.float64(2.5), "seen": frozenset({1})}
    torch.save(state, tmp_path / "a.pt")
    for name in NAMES.values():
        arguments = ["convert", str(tmp_path / "a.pt"), str(tmp_path / f"out {name}")]
        arguments += ["--to", next(form for form in NAMES if NAMES[form] == name)]
        assert main(arguments) == 89
        assert "argparse.Namespace" in capsys.readouterr().err
        assert main([*arguments, "--allow-pickle"]) == 0
        found = resilient.load(tmp_path / f"out {name}", allow_pickle=True)
        assert (found["args"], found["best"], found["seen"]) == (state["args"], state["best"], state["seen"])
        assert torch.equal(found["w"], state["w"])


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.ones(2, dtype=torch.complex128)}}, tmp_path / "b.pt")
    torch.save({"a": {"b": torch.ones(2, 2).to_sparse()}}, tmp_path / "c.pt")
    torch.save({"a": {"b.c": 1, "b": {"c": 2}}}, tmp_path / "d.pt")
    for file, form, said in (
        ("b.pt", "safetensors", r"a\.b is of type torch\.complex128"),
        ("b.pt", "resilient", r"a\.b is of type torch\.complex128"),
        ("c.pt", "torch", r"a\.b is a Tensor of layout torch\.sparse_coo"),
        ("d.pt", "dcp", r"duplicated flatten key a\.b\.c"),
    ):
        with pytest.raises(StateError, match=said):
            convert(tmp_path / file, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()
