"""DeepSpeed's engine as part of a run: ``resilient.attach(**states(engine), data=loader)``.

Each rank keeps its own partitions, and nothing is gathered, so a run goes on bit for bit on as many ranks as before. A
step of the run may be a micro-batch: while the engine sums up gradients, snapshots wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from resilient.errors import StateError, UsageError
from resilient.integrations.expected import Known

_KNOWN = Known("deepspeed", "==0.19.*")
_COUNTERS = ("micro_steps", "global_steps", "global_samples", "skipped_steps")
_MASTERS = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition")
_FLAGS = ("dynamic_loss_scale", "overflow")


def states(engine: Any) -> dict[str, Any]:
    """What of an engine belongs to the run, as arguments for :func:`resilient.attach`.

    With ZeRO-3 the copy of the state is made while training waits, and frozen parameters are left to the script.

    :param engine: that ``deepspeed.initialize`` has made, with an optimizer of torch's form, before its first step.
    :raises UsageError: what it trains with has no state that can be taken by rank, or not under the names known here.
    """
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    _KNOWN.require(engine, *_COUNTERS)
    objects = {"scheduler": engine.lr_scheduler, "engine": EngineState(engine)}
    if stage == 3:
        _KNOWN.require(optimizer, "checkpoint_event_prologue", "checkpoint_event_epilogue")
        return {**objects, "model": _Buffers(engine.module), "optimizer": _Partitioned(optimizer)}
    if isinstance(optimizer, torch.optim.Optimizer):
        return {**objects, "model": engine.module, "optimizer": optimizer}
    if stage == 0 or not isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        raise UsageError(
            f"the engine trains with a {type(optimizer).__name__} in ZeRO stage {stage}, whose state is not known",
            "use zero_optimization.stage 1, 2 or 3, with a torch optimizer",
        )
    if not _masters(optimizer):  # which would be made anew from weights of fewer bits
        _KNOWN.require(optimizer, _MASTERS[0])
    _KNOWN.require(optimizer, "_link_all_hp_params")
    return {**objects, "model": engine.module, "optimizer": optimizer.optimizer}


class EngineState:
    """The engine's counters, its loss scaler, and in stages 1 and 2 the weights of its partition in float32."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def holds_gradients(self) -> bool:
        """Whether micro-batches are summed up that have not been applied."""
        return bool(self._engine.micro_steps % self._engine.gradient_accumulation_steps())

    def state_dict(self) -> dict[str, Any]:
        optimizer = self._engine.optimizer
        return {
            "partition": self._partition(),
            "counters": {name: getattr(self._engine, name) for name in _COUNTERS},
            "flags": {name: getattr(optimizer, name) for name in _FLAGS if hasattr(optimizer, name)},
            "scaler": dict(vars(optimizer.loss_scaler)) if hasattr(optimizer, "loss_scaler") else {},
            "masters": list(_masters(optimizer)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if list(state["partition"]) != self._partition():
            stage, rank, ranks = state["partition"]
            raise StateError(
                f"the snapshot has rank {rank} of {ranks} of ZeRO stage {stage}, and this is rank "
                "{1} of {2} of stage {0}".format(*self._partition()),
                "go on with as many ranks, or from a universal checkpoint of DeepSpeed's, which fits any number",
            )
        optimizer = self._engine.optimizer
        for name, value in state["counters"].items():
            setattr(self._engine, name, value)
        for name, value in state["flags"].items():
            setattr(optimizer, name, value)
        if state["scaler"]:
            vars(optimizer.loss_scaler).update(state["scaler"])
        with torch.no_grad():
            for master, saved in zip(_masters(optimizer), state["masters"], strict=True):
                master.copy_(saved)
        if hasattr(optimizer, "_link_all_hp_params"):  # to the optimizer's state, whose tensors are others now
            optimizer._link_all_hp_params()

    def _partition(self) -> list[int]:
        stage = self._engine.zero_optimization_stage()
        return [int(stage), torch.distributed.get_rank(), torch.distributed.get_world_size()]


class _Partitioned:
    """The optimizer of ZeRO-3, whose partitions DeepSpeed itself takes out and puts back."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        own = self._optimizer.state_dict()
        return {name: own[name] for name in ("optimizer_state_dict", "fp32_flat_groups")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = {**self._optimizer.state_dict(), **state}
        self._optimizer.checkpoint_event_prologue()
        self._optimizer.load_state_dict({torch.distributed.get_rank(): own})
        self._optimizer.checkpoint_event_epilogue()


class _Buffers:
    """What ZeRO-3 does not partition of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def state_dict(self) -> dict[str, torch.Tensor]:
        kept = self._module.state_dict(keep_vars=True)
        return {name: item for name, item in kept.items() if not isinstance(item, torch.nn.Parameter)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, buffer in self.state_dict().items():
            buffer.copy_(state[name])


def _masters(optimizer: Any) -> list[torch.Tensor]:
    return next((list(getattr(optimizer, name)) for name in _MASTERS if hasattr(optimizer, name)), [])
