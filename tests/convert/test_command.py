"""``resilient convert``, ``resilient snapshots export --to`` and ``resilient.load`` on what real runs have."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resilient
from resilient.cli import main
from resilient.protocol import names
from resilient.protocol.arena import Arena
from resilient.protocol.paths import RunPaths
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.snapshot.upload import upload
from resilient.worker.capture import Capture, restore
from resilient.worker.rng import GlobalRandomState
from tests.buckets import bare
from tests.convert.states import NAMES, bits, differences, made, nasty


class Training:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)

    @property
    def objects(self) -> dict[str, Any]:
        own = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {**own, "rng": GlobalRandomState()}

    def step(self) -> list[float]:
        drawn = [random.random(), float(np.random.rand())]
        self.optimizer.zero_grad()
        loss = self.model(torch.randn(6, 4)).pow(2).mean()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return [float(loss), *drawn]

    def commit(self, directory: Path, step: int, loss: float) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        arena = Arena.private(1)
        Capture(self.objects, allow_pickle=False).write(arena.slots[0], step)
        commit(Storage(), directory, Draft("demo", step, 0, {0: arena.slots[0].image}, metrics={"loss": loss}))
        arena.close()
        return directory / names.snapshot_name(step)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a run with the snapshots 3 and 5, of which the older is the better."""
    monkeypatch.chdir(tmp_path)
    paths, training = RunPaths.of("runs", "demo"), Training(0)
    paths.create()
    for step in range(1, 6):
        training.step()
        if step in {3, 5}:
            training.commit(paths.snapshots, step, float(step))
    (tmp_path / "remote").mkdir()
    paths.config.write_text("retention: {last: 3, best_metric: loss}\n")
    return paths.root


@pytest.mark.parametrize("form", NAMES)
def test_a_training_goes_on_from_what_came_back(run: Path, tmp_path: Path, form: str) -> None:
    there, back = tmp_path / NAMES[form], tmp_path / "back"
    assert main(["convert", str(run), str(there), "--to", form]) == 0
    assert main(["convert", str(there), str(back), "--to", "resilient"]) == 0
    runs = []
    for path in (run / "snapshots" / "latest", back):
        training = Training(9)
        training.step()
        restore(memoryview((path / names.image_name(0)).read_bytes()), training.objects, allow_pickle=False)
        runs.append([training.step() for _ in range(3)])
    assert runs[0] == runs[1]


def test_the_best_snapshot_for_hugging_face(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["snapshots", "export", "run=demo", "step=best"]
    assert main([*arguments, "to=out", "--to", "hf", "--dtype", "bf16", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["step"], body["format"], body["path"]) == (3, "hf", "out")
    wanted = resilient.load(run / "snapshots" / names.snapshot_name(3), only="model")
    found = resilient.load("out")
    assert all(
        bits(found[name]) == bits(tensor.bfloat16() if tensor.shape else tensor) for name, tensor in wanted.items()
    )
    assert main([*arguments, "to=out", "--to", "hf"]) == 73
    assert main([*arguments, "to=more", "--dtype", "bf16"]) == 2
    assert main([*arguments, "to=more", "--to", "hf", "--force"]) == 2
    assert main([*arguments, "to=model.pt", "--to", "torch", "object=model"]) == 0
    assert differences(dict(wanted), dict(torch.load("model.pt", weights_only=True))) == []


def test_what_lies_remotely_is_fetched_first(run: Path, tmp_path: Path) -> None:
    snapshot = run / "snapshots" / names.snapshot_name(3)
    wanted = resilient.load(snapshot)
    upload(bare(RemoteSettings(url=str(tmp_path / "remote"))), snapshot)
    where = [f"remote.url={tmp_path / 'remote'}", "tier=remote", "step=3", "to=out/state.pt"]
    assert main(["snapshots", "export", "run=demo", *where, "--to", "torch"]) == 0
    assert differences(wanted["optimizer"], torch.load("out/state.pt", weights_only=True)["optimizer"]) == []
    assert [file.name for file in Path("out").iterdir()] == ["state.pt"]


def test_types_change_where_that_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = made(tmp_path, "torch"), tmp_path / "step-000000120"
    assert main(["convert", str(source), str(target), "--to", "resilient", "--dtype", "bf16"]) == 0
    said = capsys.readouterr().out
    assert "tensors in the state of optimizers keep their types" in said
    assert catalog.verify(target).step == 120
    wanted, found = nasty(), resilient.load(target)
    assert differences(wanted["optimizer"], found["optimizer"]) == []
    for name, tensor in wanted["model"].items():
        changes = tensor.is_floating_point() and tensor.shape
        assert bits(found["model"][name]) == bits(tensor.bfloat16() if changes else tensor)
    assert found["model"]["embed.weight"] is found["model"]["head.weight"]


def test_a_branch_becomes_the_whole(tmp_path: Path) -> None:
    source = made(tmp_path, "dcp")
    for name in ("model", "data.tuple", "optimizer.param_groups.0.betas"):
        target = tmp_path / f"{name}.pt"
        assert main(["convert", str(source), str(target), "--only", name]) == 0
        whole: Any = nasty()
        for key in name.split("."):
            whole = whole[int(key) if key.isdecimal() else key]
        assert differences(whole, torch.load(target, weights_only=True)) == []
        assert differences(whole, resilient.load(source, only=name)) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere", "x.pt"), 89, "there is no nowhere"),
        (("state.pt", "state.pt"), 73, "is there already"),
        (("state.pt", "somewhere"), 2, "--to"),
        (("state.pt", "x", "--to", "zip"), 2, "use one of"),
        (("state.pt", "x", "--to", "zero"), 2, "can only be read"),
        (("state.pt", "x.pt", "--from", "zip"), 2, "use one of"),
        (("state.pt", "x.pt", "--only", "modle"), 2, "did you mean model?"),
        (("state.pt", "x.pt", "--dtype", "int3"), 2, "use one of bf16"),
        (("state.pt", "x", "--to", "hf", "--shard-size", "5 potatoes"), 2, "5GB"),
        (("state.pt", "x", "--to", "hf", "--only", "optimizer"), 80, "it is not clear what in it is the model"),
        (("state.pt", "x.pt", "--from", "safetensors"), 89, "state.pt"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_left(  # noqa: PLR0917  pytest's fixtures
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Any,
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nasty(), "state.pt")
    before = Path("state.pt").read_bytes()
    assert main(["convert", *arguments]) == code
    assert said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert Path("state.pt").read_bytes() == before


def test_ctrl_c_ends_it_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    torch.save(nasty(), "state.pt")
    monkeypatch.setattr(Storage, "rename", interrupted)  # everything has been written
    with pytest.raises(SystemExit) as ended:
        main(["convert", "state.pt", "x.safetensors"])
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("resilient: interrupted")
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({str(number): torch.ones(100) for number in range(40)}, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 0
    lines = capsys.readouterr().err.splitlines()
    for phase in ("writing", "verifying"):
        told = [line.rpartition(": ")[2] for line in lines if f" {phase} " in line]
        assert told == [f"{percent}% of 16000 bytes" for percent in range(10, 101, 10)]


def test_what_is_loaded_may_be_changed_and_the_file_stays(tmp_path: Path) -> None:
    for form in NAMES:
        (tmp_path / form).mkdir()
        path = made(tmp_path / form, form)
        found = resilient.load(path)
        with torch.no_grad():
            found["model"]["embed.weight"].zero_()
            found["optimizer"]["state"][0]["exp_avg"].add_(1)
        assert differences(nasty(), resilient.load(path)) == []


def test_progress_is_a_bar_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's word for: this is a terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    torch.save({"w": torch.ones(1000)}, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 0
    drawn = capsys.readouterr().err
    assert "writing" in drawn
    assert "verifying" in drawn
    assert "4.0/4.0 kB" in drawn
    assert "resilient:" not in drawn
