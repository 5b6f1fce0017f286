"""Writes universal checkpoints: DeepSpeed loads them on any number of ranks, in any stage of ZeRO.

Each parameter has a directory with its weights in float32 and with its state in the optimizer, one tensor in a file.
Both of the names under which DeepSpeed looks for the rest are given, so that the same checkpoint does for ZeRO-1 and -2
and for ZeRO-3. https://arxiv.org/abs/2406.18820
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import Fitted, LazyTensor, Tree, Writing, distinct
from resilient.convert.deepspeed import model_states
from resilient.convert.deepspeed.directory import (
    LATEST_UNIVERSAL,
    MODEL,
    MODEL_OF_RANK_0,
    OPTIMIZER_STATE,
    UNIVERSAL,
)
from resilient.convert.deepspeed.naming import named_parameters
from resilient.convert.deepspeed.optimizer import NAMES
from resilient.convert.deepspeed.pickles import dumps, scaler_from
from resilient.convert.deepspeed.universal import MASTER, STEP
from resilient.convert.lazy import Converted
from resilient.convert.torch_writer import TorchTarget
from resilient.errors import StateError
from resilient.snapshot.storage import Storage

_VERSION = "0.19.8"  # that this is the form of, where the state does not come from DeepSpeed
_FORM = 0.2  # of universal checkpoints, without what later ones say of tensor parallelism
_PARTS = frozenset({"model", "optimizer", "scheduler", "client", "deepspeed"})


class UniversalTarget:
    """A directory to give to ``engine.load_checkpoint`` with ``"checkpoint": {"load_universal": true}``."""

    def __init__(self, writing: Writing) -> None:
        self._step = writing.step
        self._files = TorchTarget(writing)

    def fit(self, tree: Tree) -> Fitted:
        if not isinstance(tree, dict) or not {"model", "optimizer"} <= set(tree):
            raise StateError(
                "a universal checkpoint holds a model and its optimizer, and both of them are not in this state",
                "convert without --only; or write the model alone, --to hf or --to safetensors",
            )
        model, optimizer = _masters(named_parameters(tree))
        others = {name: part for name, part in tree.items() if name not in _PARTS}
        client = {**others, **tree.get("client", {})}
        if taken := sorted(client.keys() & model_states.OWN):
            raise StateError(f"DeepSpeed has a use of its own for {taken[0]} of the client's state", "rename it")
        fitted = {"model": model, "optimizer": optimizer, "deepspeed": self._engine(tree, model, optimizer)}
        fitted |= {"scheduler": tree["scheduler"]} if tree.get("scheduler") is not None else {}
        fitted |= {"client": client} if client else {}
        self._files.fit(fitted)
        return Fitted(fitted, list(_notes(others, optimizer, fitted["deepspeed"])))

    def size(self, tree: Tree) -> int:
        tensors = distinct(tree)
        return 2 * sum(tensor.size for tensor in distinct(tree["model"])) + sum(
            tensor.size + 4096 for tensor in tensors
        )

    def write(self, path: Path, tree: Tree, storage: Storage) -> None:
        engine, groups = tree["deepspeed"], tree["optimizer"]["param_groups"]
        tag = f"global_step{engine['global_steps']}_universal"
        directory = path / tag
        for each in (path, directory, directory / UNIVERSAL):
            storage.make_directory(each)
        for group in groups:
            for number, name in zip(group["params"], group[NAMES], strict=True):
                self._write_parameter(directory, tree, number, name, storage)
        state = _optimizer_state(tree)
        storage.write(directory / UNIVERSAL / OPTIMIZER_STATE, lambda append: append(memoryview(state)))
        storage.sync_directory(directory / UNIVERSAL)
        states = _states(tree)
        self._files.write(directory / MODEL, {**states, "module": _module(tree)}, storage)
        self._files.write(directory / MODEL_OF_RANK_0, {**states, "module": _without_parameters(tree)}, storage)
        storage.sync_directory(directory)
        storage.write(path / LATEST_UNIVERSAL, lambda append: append(memoryview(tag.encode())))
        storage.sync_directory(path)

    def _engine(self, tree: Tree, model: Tree, optimizer: Tree) -> dict[str, Any]:
        trained = {name for group in optimizer["param_groups"] for name in group[NAMES]}
        known = {id(model[name]) for name in trained}
        buffers = [name for name, item in model.items() if isinstance(item, LazyTensor) and id(item) not in known]
        fresh = dict.fromkeys(model_states.COUNTERS, 0)
        fresh["global_steps"] = self._step or 0
        engine = {
            **fresh,
            "ds_version": _VERSION,
            "ds_config": {},
            "buffer_names": buffers,
            **tree.get("deepspeed", {}),
        }
        return {name: value for name, value in engine.items() if name != "zero_stage"}

    def _write_parameter(self, directory: Path, tree: Tree, number: int, name: str, storage: Storage) -> None:
        folder = directory / UNIVERSAL / name
        storage.make_directory(folder)
        self._files.write(folder / f"{MASTER}.pt", {"param": tree["model"][name], "cat_dim": 0}, storage)
        for key, value in tree["optimizer"]["state"].get(number, {}).items():
            content = value if key == STEP else {"param": value, "cat_dim": 0}
            self._files.write(folder / f"{key}.pt", content, storage)
        storage.sync_directory(folder)


def _masters(tree: Tree) -> tuple[Tree, Tree]:
    """The model with the parameters that are trained in float32, and the optimizer with its tensors in that.

    :raises StateError: a parameter's state has something else than tensors of its shape, and the step.
    """
    model, optimizer = tree["model"], tree["optimizer"]
    wide: dict[int, LazyTensor] = {}

    def widened(tensor: LazyTensor) -> LazyTensor:
        made = tensor if tensor.dtype is torch.float32 else Converted(tensor, torch.float32)
        return wide.setdefault(id(tensor), made)

    state = {}
    for group in optimizer["param_groups"]:
        for number, name in zip(group["params"], group[NAMES], strict=True):
            if name in {"", ".", ".."} or "/" in name:
                raise StateError(f"the parameter {name!r} has a name that no file can have", "rename it")
            widened(model[name])
            found = dict(optimizer["state"].get(number, {}))
            for key, value in found.items():
                if key != STEP:
                    found[key] = widened(_of_its_shape(name, key, value, model[name]))
            state.update({number: found} if found else {})
    made = type(model)((name, wide.get(id(item), item)) for name, item in model.items())
    return made, {"state": state, "param_groups": optimizer["param_groups"]}


def _of_its_shape(name: str, key: str, value: Any, parameter: LazyTensor) -> LazyTensor:
    if not isinstance(value, LazyTensor) or value.shape != parameter.shape or not value.dtype.is_floating_point:
        raise StateError(
            f"the optimizer's {key} of {name} is no tensor of the parameter's shape, which is all that a universal "
            "checkpoint has room for beside the step",
            "convert to another format",
        )
    return value


def _notes(others: Mapping[str, Any], optimizer: Tree, engine: Mapping[str, Any]) -> Iterator[str]:
    if others:
        yield f"{', '.join(others)} become part of the client's state, which engine.load_checkpoint returns"
    if len(optimizer["param_groups"]) > 1:
        yield (
            "ZeRO-3 gives all groups of the optimizer the settings of the first when it loads a universal checkpoint "
            "(DeepSpeed 0.19); set those of the others again"
        )
    if engine["buffer_names"]:
        yield (
            "DeepSpeed loads no buffers and no frozen parameters from a universal checkpoint (0.19): give them to the "
            f"model before; {MODEL} has them under module"
        )


def _optimizer_state(tree: Tree) -> bytes:
    engine, optimizer = tree["deepspeed"], tree["optimizer"]
    groups = [
        {**{key: _read(value) for key, value in group.items() if key not in {"params", NAMES}}, "params": [number]}
        for number, group in enumerate(optimizer["param_groups"])
    ]
    steps = [found[STEP] for found in optimizer["state"].values() if STEP in found]
    shared = {"state": {0: {STEP: _read(steps[0])}} if steps else {}, "param_groups": groups}
    content = {name: engine[name] for name in model_states.OF_OPTIMIZER if name in engine}
    scaler = scaler_from(engine.get("loss_scaler"))
    content |= {"loss_scaler": scaler} if scaler is not None else {}
    return dumps(
        {**content, "ds_version": engine["ds_version"], "param_groups": groups, "optimizer_state_dict": shared}
    )


def _read(value: Any) -> Any:
    return value.read() if isinstance(value, LazyTensor) else value


def _states(tree: Tree) -> dict[str, Any]:
    engine, model = tree["deepspeed"], tree["model"]
    groups = tree["optimizer"]["param_groups"]
    shapes = [OrderedDict((name, torch.Size(model[name].shape)) for name in group[NAMES]) for group in groups]
    trained = {name for group in groups for name in group[NAMES]}
    first = {id(model[name]): name for name in trained}
    shared = {name: first[id(item)] for name, item in model.items() if id(item) in first and name not in trained}
    states = {name: value for name, value in engine.items() if name not in {*model_states.OF_OPTIMIZER, "loss_scaler"}}
    absent = ("optimizer", "frozen_param_shapes", "frozen_param_fragments", "data_sampler", "random_ltd")
    return {
        **dict.fromkeys(absent),
        **states,
        "param_shapes": shapes,
        "shared_params": shared,
        "lr_scheduler": tree.get("scheduler"),
        "dp_world_size": 1,
        "mp_world_size": 1,
        "universal_checkpoint_info": {"universal_checkpoint_version": _FORM},
        **tree.get("client", {}),
    }


def _module(tree: Tree) -> Tree:
    """The weights that the model computes with."""
    model, dtype = tree["model"], model_states.module_dtype(tree["deepspeed"].get("ds_config"))
    trained = _trained(tree)
    made: dict[int, LazyTensor] = {}
    return OrderedDict(
        (name, made.setdefault(id(item), Converted(item, dtype)) if dtype is not None and id(item) in trained else item)
        for name, item in model.items()
    )


def _without_parameters(tree: Tree) -> Tree:
    """As ZeRO-3 leaves it."""
    trained = _trained(tree)
    return OrderedDict((name, item) for name, item in tree["model"].items() if id(item) not in trained)


def _trained(tree: Tree) -> set[int]:
    return {id(tree["model"][name]) for group in tree["optimizer"]["param_groups"] for name in group[NAMES]}
