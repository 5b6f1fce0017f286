"""Checkpoints that the real DeepSpeed has made, and universal checkpoints that the real DeepSpeed loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resilient.convert import formats
from resilient.convert.checkpoint import Reading, Tree, Writing, tensors_of
from resilient.convert.conversion import write
from resilient.convert.deepspeed.universal import UniversalSource
from resilient.convert.deepspeed.zero import ZeroSource
from resilient.errors import CheckpointUnreadable, StateError
from tests.convert.states import differences

SCRIPT = Path(__file__).with_name("deepspeed_fixture.py")
MATRICES, OTHERS = ["embed.weight", "body.0.weight", "body.2.weight"], ["scale", "body.0.bias"]
WAYS = (
    *("bf16-1", "bf16-1-summed-in-fp32", "bf16-2", "bf16-3"),
    *("fp32-3-subgroups", "fp32-2-round-robin", "fp32-1"),
)
pytestmark = pytest.mark.timeout(600)


def with_deepspeed(ranks: int, *arguments: str) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    ended = subprocess.run(
        [sys.executable, *launcher, SCRIPT, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of two ranks, one for each way."""
    directory = tmp_path_factory.mktemp("made")
    with_deepspeed(2, "make", str(directory))
    return directory


def read(tree: Tree) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in tensors_of(tree).items()}


def by_name(tree: Tree) -> dict[str, torch.Tensor]:
    """The trained weights and the optimizer's state, as the script that asks DeepSpeed for them names them."""
    found = {}
    for group in tree["optimizer"]["param_groups"]:
        for number, name in zip(group["params"], group["param_names"], strict=True):
            found[f"{name}.fp32"] = tree["model"][name].read()
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{name}.{key}"] = tree["optimizer"]["state"][number][key].read()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_the_tensors_are_those_that_deepspeeds_own_tools_find(made: Path, way: str) -> None:
    tree = formats.detect(made / way).source(made / way, Reading()).tree
    model = read(tree["model"])
    if (made / way / "zero_to_fp32.pt").is_file():
        wanted = torch.load(made / way / "zero_to_fp32.pt")
        # DeepSpeed's tool leaves out what is frozen in stage 1
        assert model.keys() - wanted.keys() <= ({"frozen.weight", "frozen.bias"} if "-1" in way else set())
        assert all(torch.equal(tensor, model[name].float()) for name, tensor in wanted.items())
    assert tree["model"]["head.weight"] is tree["model"]["embed.weight"]
    assert model["seen"].item() == 6
    assert model["seen"].dtype == torch.int64
    if "robin" in way:  # what ds_to_universal finds then is not what the model has, see partitions.py
        others = by_name(ZeroSource(made / "fp32-1", Reading()).tree)
        assert all(torch.allclose(tensor, others[name], rtol=1e-4) for name, tensor in by_name(tree).items())
        return
    tool = made / way / "universal" / "global_step3_universal" / "zero"
    for name, tensor in by_name(tree).items():
        parameter, _, state = name.rpartition(".")
        wanted = torch.load(tool / parameter / f"{state}.pt")
        wanted = wanted["param"] if isinstance(wanted, dict) else wanted
        assert torch.equal(tensor.flatten(), wanted.flatten()), name


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_tensor(made: Path, way: str) -> None:
    source = ZeroSource(made / way, Reading())
    optimizer = source.tree["optimizer"]
    assert source.step == 3
    assert f"ZeRO-{way[5]} on 2 ranks" in source.about
    assert [group["param_names"] for group in optimizer["param_groups"]] == [MATRICES, OTHERS]
    assert [group["params"] for group in optimizer["param_groups"]] == [[0, 1, 2], [3, 4]]
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0.1, 0.0]
    steps = [state["step"] for state in optimizer["state"].values()]
    assert [step.read().item() for step in steps] == [3.0] * 5
    assert len(set(map(id, steps))) == 5  # one that they shared would be counted on five times
    assert source.tree["scheduler"]["last_epoch"] == 3
    assert source.tree["client"] == {"epoch": 3, "tags": ["a", "b"]}
    assert source.tree["deepspeed"]["global_samples"] == 48
    assert any("--dtype bf16" in note for note in source.notes) == way.startswith("bf16")


@pytest.mark.parametrize("way", ["bf16-1", "bf16-2", "fp32-2-round-robin"])
def test_the_models_own_weights_are_the_optimizers_in_fewer_bits(made: Path, way: str) -> None:
    model = ZeroSource(made / way, Reading()).tree["model"]
    own = torch.load(made / way / "global_step3" / "mp_rank_00_model_states.pt", weights_only=True)["module"]
    assert all(torch.equal(tensor, model[name].read().to(tensor.dtype)) for name, tensor in own.items())


def test_a_torch_optimizer_takes_the_state(made: Path) -> None:
    tree = formats.detect(made / "fp32-1").source(made / "fp32-1", Reading()).tree
    parameters = [torch.nn.Parameter(tree["model"][name].read()) for name in MATRICES + OTHERS]
    optimizer = torch.optim.AdamW([{"params": parameters[:3]}, {"params": parameters[3:]}])
    held = {number: {key: item.read() for key, item in state.items()} for number, state in _states(tree).items()}
    optimizer.load_state_dict({"state": held, "param_groups": tree["optimizer"]["param_groups"]})
    assert torch.equal(optimizer.state[parameters[4]]["exp_avg"], by_name(tree)["body.0.bias.exp_avg"])


def _states(tree: Tree) -> dict[int, Any]:
    found: dict[int, Any] = tree["optimizer"]["state"]
    return found


@pytest.mark.parametrize("way", ["bf16-1", "bf16-1-summed-in-fp32", "fp32-1"])
def test_universal_checkpoints_of_deepspeeds_tool_hold_the_same(made: Path, way: str) -> None:
    universal = made / way / "universal"
    assert formats.detect(universal).name == "deepspeed"
    found, wanted = UniversalSource(universal, Reading()).tree, ZeroSource(made / way, Reading()).tree
    wanted["deepspeed"].pop("zero_stage")
    assert differences(_held(wanted), _held(found)) == []


def _held(tree: Tree) -> Any:
    if isinstance(tree, dict):
        return {key: _held(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_held(item) for item in tree]
    return tree.read() if hasattr(tree, "read") else tree


def test_one_of_zero_3_lacks_what_deepspeeds_tool_has_left_out(made: Path) -> None:
    with pytest.raises(CheckpointUnreadable, match=r"lacks frozen\.weight"):
        _ = UniversalSource(made / "bf16-3" / "universal", Reading()).tree


def test_deepspeed_loads_universal_checkpoints_on_other_ranks_in_any_stage(made: Path, tmp_path: Path) -> None:
    jobs = []
    for way, stages in (("bf16-1", (1, 2, 3)), ("bf16-3", (3,)), ("fp32-2-round-robin", (2,)), ("scaled", (2,))):
        tree = ZeroSource(made / way, Reading()).tree
        write(tree, formats.format_named("deepspeed"), tmp_path / way, Writing())
        jobs += [_job(tmp_path, way, tmp_path / way, stage, "ours") for stage in stages]
    jobs += [_job(tmp_path, way, made / way / "universal", int(way[5]), "tool") for way in ("bf16-1", "bf16-3")]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    with_deepspeed(3, "load", str(tmp_path / "jobs.json"))
    for job in jobs:
        if "scale" not in job:
            result = torch.load(job["result"])
            wanted = by_name(ZeroSource(made / job["way"], Reading()).tree)
            assert all(torch.equal(tensor, result["before"][name]) for name, tensor in wanted.items()), job
            assert result["before"].keys() == wanted.keys()
            assert result["steps"] == 3
            assert result["scheduler"]["last_epoch"] == 5
            assert result["client"] == {"epoch": 3, "tags": ["a", "b"]}
    for way in ("bf16-1", "bf16-3"):
        ours, tool = (torch.load(tmp_path / f"{way}-{way[5]}-{whose}.pt")["after"] for whose in ("ours", "tool"))
        assert all(torch.equal(tensor, tool[name]) for name, tensor in ours.items()), way


def _job(directory: Path, way: str, path: Path, stage: int, whose: str) -> dict[str, Any]:
    job = {"way": way, "path": str(path), "stage": stage, "result": str(directory / f"{way}-{stage}-{whose}.pt")}
    return {**job, "way": "fp32-1", "scale": 256.0} if way == "scaled" else job


def test_the_command_needs_no_deepspeed(made: Path, tmp_path: Path) -> None:
    script = "import sys; sys.modules['deepspeed'] = None; from resilient.__main__ import main; sys.exit(main())"
    for source, target in ((made / "bf16-3", "universal"), (tmp_path / "universal", "model.pt")):
        form = ["--to", "deepspeed"] if target == "universal" else []
        command = [sys.executable, "-c", script, "convert", str(source), str(tmp_path / target), *form]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    found = torch.load(tmp_path / "model.pt", weights_only=True)
    wanted = ZeroSource(made / "bf16-3", Reading()).tree
    assert found["model"]["embed.weight"].data_ptr() == found["model"]["head.weight"].data_ptr()
    assert all(torch.equal(tensor, found["model"][name]) for name, tensor in read(wanted["model"]).items())
    assert found["optimizer"]["param_groups"][1]["param_names"] == OTHERS


def test_an_optimizer_that_does_not_name_its_parameters(made: Path) -> None:
    tree = ZeroSource(made / "fp32-1", Reading()).tree
    target = formats.format_named("deepspeed").target
    assert target is not None
    for group in tree["optimizer"]["param_groups"]:
        del group["param_names"]
    with pytest.raises(StateError, match="8 parameters the optimizer's 5 are cannot be told"):
        target(Writing()).fit(tree)
    named = MATRICES + OTHERS
    tree["model"] = {name: tree["model"][name] for name in named}
    fitted = target(Writing()).fit(tree).tree
    assert [name for group in fitted["optimizer"]["param_groups"] for name in group["param_names"]] == named
    with pytest.raises(StateError, match="a model and its optimizer"):
        target(Writing()).fit({"model": tree["model"]})


# --- what cannot be read

Damage = Callable[[Path], object]
_MODEL, _SECOND = "mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"


def _edited(name: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(tag: Path) -> None:
        states = torch.load(tag / name, weights_only=True)
        change(states)
        torch.save(states, tag / name)

    return damage


def _cut(tag: Path) -> None:
    data = (tag / _SECOND).read_bytes()
    (tag / _SECOND).write_bytes(data[: len(data) // 2])


def _larger(states: dict[str, Any]) -> None:
    states["param_shapes"][0]["body.2.weight"] = torch.Size([8, 13])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "the last rank's part is gone": (
        lambda tag: (tag / _SECOND).unlink(),
        "optimizer's part of 1 of 2 ranks; zero_pp_rank_1_mp_rank_00_optim_states.pt is missing",
    ),
    "the first rank's part is gone": (
        lambda tag: (tag / _SECOND.replace("_1_", "_0_", 1)).unlink(),
        "zero_pp_rank_0_mp_rank_00_optim_states.pt is missing",
    ),
    "there is a third rank's": (
        lambda tag: shutil.copy(tag / _SECOND, tag / _SECOND.replace("_1_", "_2_", 1)),
        "3 ranks, and was saved by 2",
    ),
    "the model is gone": (lambda tag: (tag / _MODEL).unlink(), f"lacks {_MODEL}"),
    "the tag is gone": (shutil.rmtree, "latest says global_step3, which is not there"),
    "a part is cut short": (_cut, f"{_SECOND} cannot be read"),
    "a shape is another": (
        _edited(_MODEL, _larger),
        r"(91|103) elements of body.2.weight, whose shape is \[8, 13\]",
    ),
    "no version": (_edited(_MODEL, lambda states: states.pop("ds_version")), "DeepSpeed None has written it"),
    "an old version": (_edited(_MODEL, lambda states: states.update(ds_version="0.5.9")), "by DeepSpeed 0.5.9; before"),
    "tensor parallelism": (_edited(_MODEL, lambda states: states.update(mp_world_size=2)), "split by tensor"),
    "two parts of the model": (
        lambda tag: shutil.copy(tag / _MODEL, tag / _MODEL.replace("00", "01")),
        "mp_rank_01_model_states.pt is of a model that is split by tensor or pipeline",
    ),
    "pipeline parallelism": (
        lambda tag: shutil.copy(tag / _MODEL, tag / "layer_01-model_00-model_states.pt"),
        "split by pipeline parallelism",
    ),
    "experts": (
        lambda tag: shutil.copy(tag / _MODEL, tag / "layer_0_expert_3_mp_rank_00_model_states.pt"),
        "split by a mixture of experts",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(made: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(made / "fp32-1", tmp_path / "copy")
    inflict, message = DAMAGES[damage]
    inflict(tmp_path / "copy" / "global_step3")
    with pytest.raises(CheckpointUnreadable, match=message):
        _ = ZeroSource(tmp_path / "copy", Reading()).tree


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("EVIL",)


def test_no_code_is_run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made / "fp32-1", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    _edited(_MODEL, lambda states: states.update(note=_Evil()))(tmp_path / "copy" / "global_step3")
    with pytest.raises(CheckpointUnreadable, match=r"holds an object of posix\.mkdir"):
        _ = ZeroSource(tmp_path / "copy", Reading()).tree
    assert not (tmp_path / "EVIL").exists()
    _ = ZeroSource(tmp_path / "copy", Reading(allow_pickle=True)).tree
    assert (tmp_path / "EVIL").exists()  # who asks for it, gets it
