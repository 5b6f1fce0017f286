"""Makes checkpoints with the real DeepSpeed, on CPUs, and has DeepSpeed load others.

``python -m torch.distributed.run --standalone --nproc-per-node 2 deepspeed_fixture.py make DIRECTORY`` trains one small
model in every way of ``WAYS``, and saves it, with what DeepSpeed's own tools make of that. ``load JOBS.json`` loads
universal checkpoints, trains on, and saves what the engine had before and after.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles for minutes, for speed alone

STEPS = 3
MICRO_STEPS = 2
WAYS: dict[str, dict[str, Any]] = {
    "bf16-1": {"stage": 1, "bf16": {"enabled": True}},
    "bf16-1-summed-in-fp32": {"stage": 1, "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    "bf16-2": {"stage": 2, "bf16": {"enabled": True}},
    "bf16-3": {"stage": 3, "bf16": {"enabled": True}},
    "fp32-3-subgroups": {"stage": 3, "zero": {"sub_group_size": 60}},
    "fp32-2-round-robin": {"stage": 2, "zero": {"round_robin_gradients": True}},
    "fp32-1": {"stage": 1},
}


class Model(nn.Module):
    """Tied and frozen parameters, buffers, and no size that two or three ranks could share evenly."""

    average: torch.Tensor
    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 7)
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 7, bias=False))
        self.head = nn.Linear(7, 11, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("average", torch.zeros(7))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.frozen(self.embed(tokens))
        with torch.no_grad():
            self.seen += 1
            self.average.mul_(0.9).add_(hidden.mean(0), alpha=0.1)
        logits: torch.Tensor = self.head(hidden + self.body(hidden) * self.scale)
        return logits


def engine_of(model: nn.Module, way: dict[str, Any], *, universal: bool) -> Any:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = {"params": [each for each in trained if each.ndim > 1], "weight_decay": 0.1}
    others = {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0, "lr": 2e-3}
    optimizer = torch.optim.AdamW([matrices, others], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    settings = {name: value for name, value in way.items() if name not in {"stage", "zero"}}
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": MICRO_STEPS,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": way["stage"],
            "stage3_param_persistence_threshold": 0,
            **way.get("zero", {}),
        },
        "checkpoint": {"load_universal": universal},
        **settings,
    }
    return deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)[0]


def train(engine: Any, steps: int) -> None:
    generator = torch.Generator().manual_seed(deepspeed.comm.get_rank())
    for _ in range(steps * MICRO_STEPS):
        tokens = torch.randint(0, 11, (4,), generator=generator)
        engine.backward(nn.functional.cross_entropy(engine(tokens).float(), tokens))
        engine.step()


def held_by(engine: Any) -> dict[str, torch.Tensor]:
    """The weights in float32 and the optimizer's state, as DeepSpeed itself puts them together."""
    found = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            found[f"{name}.fp32"] = safe_get_full_fp32_param(parameter).clone()
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{name}.{key}"] = safe_get_full_optimizer_state(parameter, key).clone()
    return found


def make(directory: Path) -> None:
    for name, way in WAYS.items():
        torch.manual_seed(5)
        engine = engine_of(Model(), way, universal=False)
        train(engine, STEPS)
        engine.save_checkpoint(str(directory / name), client_state={"epoch": 3, "tags": ["a", "b"]})
        if deepspeed.comm.get_rank() == 0:
            _ask_the_tools(directory / name)
    # fp16, which has a scaler, is not for every CPU; the scaler itself is.
    engine.optimizer.loss_scaler = DynamicLossScaler(
        256.0, 3, 1.0, 2, consecutive_hysteresis=False, raise_error_at_min_scale=True, dtype=torch.half
    )
    engine.save_checkpoint(str(directory / "scaled"))


def _ask_the_tools(path: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with suppress(ValueError):  # it does not know the optimizer that sums gradients in float32
        torch.save(dict(get_fp32_state_dict_from_zero_checkpoint(path)), path / "zero_to_fp32.pt")
    tag = (path / "latest").read_text()
    made = path / "universal" / f"{tag}_universal"
    made.mkdir(parents=True)
    workers = {"num_extract_workers": 1, "num_merge_workers": 1}
    others = {"keep_temp_folder": False, "strict": True, "inject_missing_state": True}
    main(SimpleNamespace(input_folder=str(path / tag), output_folder=str(made), **workers, **others))
    (path / "universal" / "latest_universal").write_text(made.name)


def load(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        torch.manual_seed(6)
        model = Model()
        way = {**WAYS[job["way"]], "stage": job["stage"], "zero": {}}
        engine = engine_of(model, way, universal=True)
        _, client = engine.load_checkpoint(job["path"])
        before, steps = held_by(engine), engine.global_steps
        if "scale" in job:
            assert type(engine.optimizer.loss_scaler) is DynamicLossScaler
            assert engine.optimizer.loss_scaler.cur_scale == job["scale"]
            continue
        train(engine, 2)
        after = held_by(engine)
        if deepspeed.comm.get_rank() == 0:
            engine_has = {"steps": steps, "scheduler": engine.lr_scheduler.state_dict()}
            client_has = {name: client.get(name) for name in ("epoch", "tags")}
            torch.save({"before": before, "after": after, **engine_has, "client": client_has}, job["result"])


if __name__ == "__main__":
    deepspeed.init_distributed(dist_backend="gloo")
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        load(json.loads(Path(sys.argv[2]).read_text()))
