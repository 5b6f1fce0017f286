"""What the file with the model's state holds beside weights: the engine's counters, its configuration, the client's.

In a tree, ``model`` are the weights with which the optimizer works, in float32 under mixed precision; ``optimizer`` is
as a torch optimizer's over the parameters that are trained; ``scheduler`` and ``client`` are what was saved of these.
The rest of what the engine needs stands under ``deepspeed``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from resilient.convert.deepspeed.directory import refused_as_split
from resilient.errors import CheckpointUnreadable

OLDEST, NEWEST = (0, 14), (0, 19)
"""The oldest and the newest release of DeepSpeed whose checkpoints were compared with what its own tools make of them.
Older ones are refused."""

OF_OPTIMIZER = ("dynamic_loss_scale", "overflow", "clip_grad")
"""What the optimizer's own files have beside its state."""
COUNTERS = ("global_steps", "global_samples", "skipped_steps")
_KEPT = (*COUNTERS, "ds_version", "ds_config", "buffer_names", "data_sampler", "random_ltd")
_OTHERS = frozenset(
    {
        *("module", "optimizer", "lr_scheduler", "shared_params", "param_shapes"),
        *("frozen_param_shapes", "frozen_param_fragments", "dp_world_size", "mp_world_size", "num_experts"),
        *("ds_autoep_layers", "autoep_layers", "folding", "universal_checkpoint_info"),
        *("checkpoint_parallel_dimensions", "sparse_tensor_module_names", "csr_tensor_module_names"),
    }
)
OWN = frozenset(_KEPT) | _OTHERS
"""Names that DeepSpeed uses itself; the client's state lies beside them."""


def step_of(states: Mapping[str, Any]) -> int | None:
    """The step that a checkpoint says it is of."""
    step = states.get("global_steps")
    return step if type(step) is int else None


def release(where: Path, version: Any) -> tuple[int, int]:
    """:raises CheckpointUnreadable: the version of DeepSpeed is not known, or too old."""
    match = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if match is None:
        raise CheckpointUnreadable(
            f"{where} says that DeepSpeed {version!r} has written it, which is no version that is known",
            "load it with the DeepSpeed that wrote it and save it with one that says its version",
        )
    found = int(match[1]), int(match[2])
    if found < OLDEST:
        raise CheckpointUnreadable(
            f"{where} was written by DeepSpeed {version}; before {'.'.join(map(str, OLDEST))} the form was another",
            "load it with a newer DeepSpeed and save it again",
        )
    return found


def require_whole_model(where: Path, states: Mapping[str, Any]) -> None:
    """:raises CheckpointUnreadable: it is of one part of a model, or has no model in it."""
    if not isinstance(states, dict) or not isinstance(states.get("module"), dict):
        raise CheckpointUnreadable(f"{where} has no model in it", "give the directory that save_checkpoint wrote")
    if states.get("mp_world_size", 1) != 1:
        raise refused_as_split(where, "tensor or pipeline parallelism")
    if states.get("ds_autoep_layers") or states.get("autoep_layers") or any(states.get("num_experts") or ()):
        raise refused_as_split(where, "a mixture of experts")


def about_engine(states: Mapping[str, Any]) -> dict[str, Any]:
    return {name: states[name] for name in _KEPT if states.get(name) is not None}


def client_state(states: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in states.items() if name not in OWN}


def notes_on(states: Mapping[str, Any], found: tuple[int, int]) -> Sequence[str]:
    notes = []
    if found > NEWEST:
        newest = ".".join(map(str, NEWEST))
        notes.append(f"DeepSpeed {states['ds_version']} is newer than {newest}, up to which this was tried")
    dtype = module_dtype(states.get("ds_config"))
    if dtype is not None:
        name = "bf16" if dtype is torch.bfloat16 else "fp16"
        notes.append(f"the weights are the optimizer's, in float32; with --dtype {name} they are the model's own")
    return notes


def module_dtype(config: Any) -> torch.dtype | None:
    """Of the weights that the model computes with; None where it is that of the optimizer's."""
    for section, dtype in (("bf16", torch.bfloat16), ("bfloat16", torch.bfloat16), ("fp16", torch.float16)):
        settings = config.get(section) if isinstance(config, dict) else None
        if isinstance(settings, dict) and settings.get("enabled"):
            return dtype
    return None
