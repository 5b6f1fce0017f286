"""What is exported opens with the tools of others, under the names that the model has, and only if it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from resilient.drill.faults import flip_bit
from resilient.errors import SnapshotCorrupt, SnapshotNotFound, TargetNotWritable
from resilient.protocol import names
from resilient.protocol.arena import Arena
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import catalog, copies, export, hashing, manifest
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.export import export_object, export_snapshot
from resilient.snapshot.remote import RemoteTier
from resilient.snapshot.storage import Storage
from resilient.snapshot.upload import upload
from resilient.worker.capture import Capture
from tests.buckets import bare


class Tied(torch.nn.Module):
    """Everything that a name or a layout may hide: tied weights, buffers, half precision, another memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(500, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.narrow = torch.nn.Linear(16, 5).to(torch.bfloat16)
        self.conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = torch.nn.Linear(16, 500, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("mask", torch.rand(7) > 0.5)
        self.register_buffer("scalar", torch.tensor(3.5, dtype=torch.float64))


def snapshot_of(directory: Path, **objects: Any) -> Path:
    directory.mkdir(exist_ok=True)
    arena = Arena.private(1)
    Capture(objects, allow_pickle=False).write(arena.slots[0], 7)
    commit(Storage(), directory, Draft("demo", 7, 0, {0: arena.slots[0].image}, metrics={"loss": 1.0}))
    arena.close()
    return directory / names.snapshot_name(7)


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks so small that every tensor lies across several."""
    for module in (catalog, copies, export, hashing, manifest):
        monkeypatch.setattr(module, "CHUNK", 4096)
    return 4096


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_a_model_opens_under_its_own_names_tied_ones_included(tmp_path: Path, tiny_chunks: int) -> None:
    torch.manual_seed(1)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    copy = LocalCopy(snapshot_of(tmp_path / "s", model=model, optimizer=optimizer))
    assert len(copy.manifest.files[0].checksum.chunks) > 3
    done = export_object(copy, "model", tmp_path / "out" / "model.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert equal(loaded, dict(model.state_dict()))
    assert done.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    other = Tied()
    other.load_state_dict(loaded)
    assert equal(dict(other.state_dict()), dict(model.state_dict()))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.safetensors"]


def test_safetensors_own_loader_takes_it(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, other = (torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)) for _ in range(2))
    export_object(LocalCopy(snapshot_of(tmp_path / "s", model=model)), "model", tmp_path / "m.safetensors")
    safetensors.torch.load_model(other, tmp_path / "m.safetensors")
    assert equal(dict(other.state_dict()), dict(model.state_dict()))
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as opened:
        assert opened.metadata()["format"] == "pt"
        assert (opened.metadata()["step"], opened.metadata()["object"]) == ("7", "model")


def test_another_object_can_be_exported(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    copy = LocalCopy(snapshot_of(tmp_path / "s", model=model, optimizer=optimizer))
    export_object(copy, "optimizer", tmp_path / "o.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "o.safetensors")
    assert torch.equal(loaded["state.0.exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_an_object_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    copy = LocalCopy(snapshot_of(tmp_path / "s", model=torch.nn.Linear(2, 2), ema=torch.nn.Linear(2, 2)))
    with pytest.raises(SnapshotNotFound, match=r"(?s)object=modle.*ema, model"):
        export_object(copy, "modle", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_what_is_there_is_replaced_only_when_that_is_said(tmp_path: Path) -> None:
    copy = LocalCopy(snapshot_of(tmp_path / "s", model=torch.nn.Linear(2, 2)))
    target = tmp_path / "m.safetensors"
    target.write_text("mine")
    with pytest.raises(TargetNotWritable, match="--force"):
        export_object(copy, "model", target)
    assert target.read_text() == "mine"
    export_object(copy, "model", target, replace=True)
    assert set(safetensors.torch.load_file(target)) == {"weight", "bias"}
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(TargetNotWritable, match="is no file"):
        export_object(copy, "model", tmp_path / "d.safetensors", replace=True)


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_copy_is_not_exported_and_leaves_nothing(tmp_path: Path, whole: bool) -> None:
    snapshot = snapshot_of(tmp_path / "s", model=torch.nn.Linear(200, 200))
    flip_bit(snapshot / names.image_name(0), offset=50000)
    (tmp_path / "out").mkdir()
    copy, target = LocalCopy(snapshot), tmp_path / "out" / "m.safetensors"
    with pytest.raises(SnapshotCorrupt, match="checksum mismatch"):
        export_snapshot(copy, target) if whole else export_object(copy, "model", target)
    assert not list((tmp_path / "out").iterdir())


def test_a_whole_snapshot_is_an_ordinary_one_elsewhere(tmp_path: Path, remote: RemoteSettings) -> None:
    snapshot = snapshot_of(tmp_path / "s", model=Tied())
    bucket = bare(remote)
    upload(bucket, snapshot)
    tier = RemoteTier(bucket)
    both: tuple[Copy, ...] = (LocalCopy(snapshot), tier.copy(tier.items()[0]))
    for number, copy in enumerate(both):
        target = tmp_path / f"copy-{number}"
        assert export_snapshot(copy, target) == copy.manifest.size
        assert catalog.verify(target) == copy.manifest
        assert {path.name for path in target.iterdir()} == {path.name for path in snapshot.iterdir()}
        with pytest.raises(TargetNotWritable, match="--force"):
            export_snapshot(copy, target)
        export_snapshot(copy, target, replace=True)
        assert catalog.verify(target) == copy.manifest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_force_never_replaces_a_directory_of_other_things(tmp_path: Path) -> None:
    copy = LocalCopy(snapshot_of(tmp_path / "s", model=torch.nn.Linear(2, 2)))
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    (home / "manifest.json").write_text("{}")
    with pytest.raises(TargetNotWritable, match="no exported snapshot"):
        export_snapshot(copy, home, replace=True)
    assert (home / "thesis.tex").exists()


def test_a_target_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    copy = LocalCopy(snapshot_of(tmp_path / "s", model=torch.nn.Linear(2, 2)))
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetNotWritable, match="cannot be written"):
        export_object(copy, "model", tmp_path / "file" / "m.safetensors")
    assert (tmp_path / "file").read_text() == ""
