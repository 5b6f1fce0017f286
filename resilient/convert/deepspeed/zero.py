"""Reads checkpoints of ZeRO, as ``engine.save_checkpoint`` writes them, without DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, Reading, Tree
from resilient.convert.deepspeed import model_states
from resilient.convert.deepspeed.directory import Files, files_of, require_ranks
from resilient.convert.deepspeed.opened import Opened
from resilient.convert.deepspeed.optimizer import is_dealt_in_turn, optimizer_tree, original_order, scalar
from resilient.convert.deepspeed.partitions import (
    Parameter,
    Piece,
    Pieced,
    compare_with_mappings,
    cut_evenly,
    dealt_out,
    padded_length,
)
from resilient.convert.deepspeed.pickles import plain_scaler
from resilient.errors import CheckpointUnreadable


class ZeroSource:
    """:param path: that was given to ``save_checkpoint``, whose newest one is meant; or the directory of a tag."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self._allow_pickle = reading.allow_pickle

    @property
    def about(self) -> str:
        stage = f"ZeRO-{self._zero.stage}" if self._zero else "no ZeRO"
        return f"a DeepSpeed checkpoint of step {self.step} with {stage} on {self._ranks} ranks"

    @property
    def step(self) -> int | None:
        return model_states.step_of(self._states)

    @property
    def notes(self) -> Sequence[str]:
        return model_states.notes_on(self._states, self._release)

    def verify(self) -> None:
        """The sizes are compared when the tree is made."""
        _ = self.tree

    @cached_property
    def _files(self) -> Files:
        return files_of(self.path)

    @cached_property
    def _models(self) -> Sequence[Opened]:
        return [Opened(path, allow_pickle=self._allow_pickle) for path in self._files.model]

    @cached_property
    def _states(self) -> Mapping[str, Any]:
        states = self._models[0].content
        model_states.require_whole_model(self._models[0].path, states)
        return states  # type: ignore[no-any-return]  # it is a dictionary now

    @cached_property
    def _release(self) -> tuple[int, int]:
        return model_states.release(self._files.directory, self._states.get("ds_version"))

    @property
    def _ranks(self) -> int:
        return len(self._files.optimizer) or int(self._states.get("dp_world_size") or 1)

    @cached_property
    def _zero(self) -> _Zero | None:
        _ = self._release
        if not self._files.optimizer:
            return None
        opened = [Opened(path, allow_pickle=self._allow_pickle) for path in self._files.optimizer]
        return _Zero(self._files, opened, self._states)

    @cached_property
    def tree(self) -> Tree:
        zero, states = self._zero, self._states
        engine = model_states.about_engine(states)
        if zero is None:
            model, optimizer = self._models[0].lazy(states["module"], "module"), self._unpartitioned()
        else:
            masters = {each.name: zero.master(each) for each in zero.parameters}
            model = self._model(masters)
            optimizer = zero.optimizer()
            engine |= {"zero_stage": zero.stage, **zero.about}
        tree = {"model": model, "optimizer": optimizer, "deepspeed": self._models[0].lazy(engine, "")}
        if states.get("lr_scheduler") is not None:
            tree["scheduler"] = self._models[0].lazy(states["lr_scheduler"], "lr_scheduler")
        if client := model_states.client_state(states):
            tree["client"] = self._models[0].lazy(client, "")
        return {name: part for name, part in tree.items() if part is not None}

    def _unpartitioned(self) -> Tree:
        found = self._states.get("optimizer")
        if found is not None and not {"state", "param_groups"} <= set(found):
            raise CheckpointUnreadable(
                f"{self._files.directory} was written in mixed precision without ZeRO, which is not converted",
                "load it into an engine with zero_optimization.stage 1 or more and save it again",
            )
        return self._models[0].lazy(found, "optimizer")

    def _model(self, masters: Mapping[str, LazyTensor]) -> Tree:
        module = self._models[0].lazy(self._states["module"], "module")
        shared = self._states.get("shared_params") or {}
        for name in {*masters, *shared} - set(module):
            module[name] = None
        for name, found in module.items():
            frozen = self._frozen(name)
            if name in masters:
                module[name] = masters[name]
            elif name in shared:
                module[name] = masters.get(shared[name]) or module.get(shared[name])
            elif frozen is not None:
                module[name] = frozen
            elif found is None or (isinstance(found, LazyTensor) and self._is_left_out(name, found)):
                raise CheckpointUnreadable(
                    f"{self._files.directory}: {name} is in none of the ranks' parts",
                    "it was saved without the parameters that are frozen; save it with them",
                )
        return module

    def _frozen(self, name: str) -> LazyTensor | None:
        """A parameter that is not trained, of which with ZeRO-3 each rank has a piece."""
        shape = (self._states.get("frozen_param_shapes") or {}).get(name)
        if shape is None or self._zero is None or self._zero.stage < 3:
            return None
        if len(self._models) != self._ranks:
            raise CheckpointUnreadable(
                f"{self._files.directory} has the model's part of {len(self._models)} of {self._ranks} ranks",
                "copy the files of all nodes into one directory",
            )
        [parameter] = cut_evenly(self._files.directory, [{name: shape}], self._ranks)
        rows = [model.content["frozen_param_fragments"][name] for model in self._models]
        pieces = [(self._models[each.rank], rows[each.rank], each) for each in parameter.pieces]
        return Pieced(parameter.shape, [opened.piece(row, each, name) for opened, row, each in pieces])

    def _is_left_out(self, name: str, found: LazyTensor) -> bool:
        """ZeRO-3 leaves nothing but an empty tensor of what it has partitioned."""
        partitioned = self._zero is not None and self._zero.stage == 3
        return partitioned and found.size == 0 and name not in self._states["buffer_names"]


class _Zero:
    """What the ranks have of the optimizer.

    :ivar about: the rest of it.
    """

    def __init__(self, files: Files, opened: Sequence[Opened], states: Mapping[str, Any]) -> None:
        self._where = files.directory
        self._opened = opened
        self._config = states.get("ds_config")
        try:
            self._states = [each.content["optimizer_state_dict"] for each in opened]
            self.stage = int(self._states[0].get("zero_stage", 1))  # that of bfloat16 in stage 1 does not say it
            count = self._states[0]["partition_count"]
            self._ranks = max(count) if isinstance(count, list) else int(count)
            require_ranks(files, self._ranks)
            self._shapes: Sequence[Mapping[str, Any]] = states["param_shapes"]
            self._base = "optimizer_state_dict" if self.stage == 3 else "base_optimizer_state"
            self._rows = "fp32_flat_groups" if self.stage == 3 else "single_partition_of_fp32_groups"
            self._require_rigid()
            self.parameters = self._find()
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise CheckpointUnreadable(
                f"{self._where} has not the form that DeepSpeed gives it: {error!r}", "use another copy"
            ) from error
        self._by_name = {each.name: each for each in self.parameters}
        first = self._states[0]
        scaler = plain_scaler(first.get("loss_scaler"))
        self.about = {name: first[name] for name in model_states.OF_OPTIMIZER if name in first}
        self.about |= {"loss_scaler": scaler} if scaler is not None else {}

    def _require_rigid(self) -> None:
        if not isinstance(self._states[0][self._base], dict):
            raise CheckpointUnreadable(
                f"{self._where} was saved with elastic_checkpoint, and so without the settings of the optimizer",
                "load it with DeepSpeed and save it again without that",
            )

    def _find(self) -> list[Parameter]:
        if self.stage < 3:
            lengths = [[row.numel() for row in state[self._rows]] for state in self._states]
            fillings = self._states[0].get("param_alignment_paddings")
            found = dealt_out(self._where, self._shapes, lengths, fillings)
            if not is_dealt_in_turn(self._config):
                mappings = [state["param_slice_mappings"] for state in self._states]
                compare_with_mappings(self._where, found, mappings)
            return found
        for rank, state in enumerate(self._states):
            for group, row in enumerate(state[self._rows]):
                expected = padded_length(self._shapes[group], self._ranks)
                if row.numel() != expected:
                    raise CheckpointUnreadable(
                        f"{self._opened[rank].path}: group {group} has {row.numel()} elements, and its parameters "
                        f"{expected} of this rank: {', '.join(list(self._shapes[group])[:3])} …",
                        "the files are not all of one checkpoint; copy it again from where it was saved",
                    )
        return cut_evenly(self._where, self._shapes, self._ranks)

    def master(self, parameter: Parameter) -> LazyTensor:
        rows = [state[self._rows][parameter.group] for state in self._states]
        return self._pieced(parameter, rows)

    def optimizer(self) -> Tree:
        names = [original_order(list(each), self._ranks, self._config) for each in self._shapes]
        groups = self._states[0][self._base]["param_groups"]
        return optimizer_tree(self._where, groups, names, self._state_of)

    def _state_of(self, name: str) -> Mapping[str, Any]:
        parameter = self._by_name[name]
        states = [state[self._base]["state"].get(parameter.group, {}) for state in self._states]
        first = states[parameter.pieces[0].rank] if parameter.pieces else states[0]
        return {
            key: self._pieced(parameter, [state[key] for state in states])
            if isinstance(value, torch.Tensor) and value.dim()
            else scalar(value)
            for key, value in first.items()
        }

    def _pieced(self, parameter: Parameter, rows: Sequence[torch.Tensor]) -> LazyTensor:
        def piece(each: Piece) -> LazyTensor:
            return self._opened[each.rank].piece(rows[each.rank], each, parameter.name)

        return Pieced(parameter.shape, [piece(each) for each in parameter.pieces])
