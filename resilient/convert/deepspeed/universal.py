"""Reads universal checkpoints, whether DeepSpeed's ``ds_to_universal`` or this package has made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, Reading, Tree
from resilient.convert.deepspeed import model_states
from resilient.convert.deepspeed.directory import (
    MODEL,
    MODEL_OF_RANK_0,
    OPTIMIZER_STATE,
    UNIVERSAL,
    refused_as_split,
    universal_directory,
)
from resilient.convert.deepspeed.opened import Opened
from resilient.convert.deepspeed.optimizer import optimizer_tree, original_order
from resilient.convert.deepspeed.pickles import plain_scaler
from resilient.convert.lazy import Reshaped
from resilient.errors import CheckpointUnreadable

MASTER = "fp32"
STEP = "step"


class UniversalSource:
    """:param path: of the directory with ``latest_universal``, or that of a tag."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self._allow_pickle = reading.allow_pickle

    @property
    def about(self) -> str:
        return f"a universal checkpoint of DeepSpeed's of step {self.step}"

    @property
    def step(self) -> int | None:
        return model_states.step_of(self._states)

    @property
    def notes(self) -> Sequence[str]:
        found = model_states.release(self._directory, self._states.get("ds_version"))
        return model_states.notes_on(self._states, found)

    def verify(self) -> None:
        """The sizes are compared when the tree is made."""
        _ = self.tree

    @cached_property
    def _directory(self) -> Path:
        return universal_directory(self.path)

    @cached_property
    def _model_file(self) -> Opened:
        names = {entry.name for entry in self._directory.iterdir()}
        chosen = MODEL if MODEL in names else MODEL_OF_RANK_0
        return self._open(self._directory / chosen)

    @cached_property
    def _states(self) -> Mapping[str, Any]:
        states = self._model_file.content
        model_states.require_whole_model(self._model_file.path, states)
        return states  # type: ignore[no-any-return]  # it is a dictionary now

    @cached_property
    def _optimizer(self) -> Mapping[str, Any]:
        return self._open(self._directory / UNIVERSAL / OPTIMIZER_STATE).content  # type: ignore[no-any-return]

    @cached_property
    def tree(self) -> Tree:
        states, optimizer, shapes = self._states, self._optimizer, self._states.get("param_shapes")
        if not isinstance(shapes, list):
            raise CheckpointUnreadable(
                f"{self._model_file.path} has no shapes of parameters", "convert it again with ds_to_universal"
            )
        masters = {name: self._tensor(name, MASTER, shape) for group in shapes for name, shape in group.items()}
        config = states.get("ds_config")
        ranks = int(states.get("dp_world_size") or 1)
        rows = [original_order(list(group), ranks, config) for group in shapes]
        all_shapes = {name: shape for group in shapes for name, shape in group.items()}
        groups = optimizer.get("optimizer_state_dict", optimizer).get("param_groups", [])
        engine = model_states.about_engine(states)
        engine |= {name: optimizer[name] for name in model_states.OF_OPTIMIZER if name in optimizer}
        scaler = plain_scaler(optimizer.get("loss_scaler"))
        engine |= {"loss_scaler": scaler} if scaler is not None else {}
        tree = {
            "model": self._model(masters),
            "optimizer": optimizer_tree(
                self._directory, groups, rows, lambda name: self._state_of(name, all_shapes[name])
            ),
            "deepspeed": self._model_file.lazy(engine, "deepspeed"),
        }
        if states.get("lr_scheduler") is not None:
            tree["scheduler"] = self._model_file.lazy(states["lr_scheduler"], "lr_scheduler")
        if client := model_states.client_state(states):
            tree["client"] = self._model_file.lazy(client, "client")
        return tree

    def _model(self, masters: Mapping[str, LazyTensor]) -> Tree:
        module = self._model_file.lazy(self._states["module"], "module")
        shared = self._states.get("shared_params") or {}
        frozen = self._states.get("frozen_param_shapes") or {}
        for name, found in module.items():
            target = masters.get(name) or masters.get(shared.get(name, ""))
            if target is not None:
                module[name] = target
            elif isinstance(found, LazyTensor) and not found.size and name in frozen:
                raise CheckpointUnreadable(
                    f"{self._directory} lacks {name}, which is not trained: ds_to_universal leaves such ones out of "
                    "checkpoints of ZeRO-3",
                    "convert the checkpoint that it was made from",
                )
        return module

    def _state_of(self, name: str, shape: Sequence[int]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        step = self._directory / UNIVERSAL / name / f"{STEP}.pt"
        if step.is_file():
            opened = self._open(step)
            found[STEP] = opened.lazy(opened.content, STEP)
        elif (shared := self._shared_step()) is not None:
            found[STEP] = shared
        for path in sorted((self._directory / UNIVERSAL / name).glob("*.pt")):
            if path.stem not in {MASTER, STEP}:
                found[path.stem] = self._tensor(name, path.stem, shape)
        return found if found.keys() - {STEP} else {}

    def _shared_step(self) -> Any:
        """With ZeRO-3, ``ds_to_universal`` keeps one for all parameters."""
        state = self._optimizer.get("optimizer_state_dict", {}).get("state", {}).get(0, {})
        step = state.get(STEP)
        return self._open(self._directory / UNIVERSAL / OPTIMIZER_STATE).lazy({STEP: step}, STEP)[STEP]

    def _tensor(self, name: str, state: str, shape: Sequence[int]) -> LazyTensor:
        path = self._directory / UNIVERSAL / name / f"{state}.pt"
        opened = self._open(path)
        content = opened.content
        if isinstance(content, dict) and content.keys() & {"sub_param_shape", "is_expert_param", "vocab_tensor"}:
            raise refused_as_split(path, "tensor parallelism")
        tensor = content.get("param") if isinstance(content, dict) else content
        if not isinstance(tensor, torch.Tensor) or tensor.numel() < torch.Size(shape).numel():
            raise CheckpointUnreadable(f"{path} does not hold a tensor of shape {list(shape)}", "convert it again")
        # With ZeRO-3, ds_to_universal writes rows, in which there may be a filling at the end.
        row = tensor.reshape(-1)[: torch.Size(shape).numel()]
        return Reshaped(opened.lazy({state: row}, name)[state], shape)

    def _open(self, path: Path) -> Opened:
        return Opened(path, allow_pickle=self._allow_pickle)
