"""The optimizer as torch's optimizers have it: numbered parameters, each with its state, in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import HeldTensor, Tree
from resilient.errors import CheckpointUnreadable

NAMES = "param_names"
"""Of a group's parameters; torch's own key for them since 2.6."""


def optimizer_tree(
    where: Path,
    groups: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[str]],
    state_of: Callable[[str], Mapping[str, Any]],
) -> Tree:
    """:param groups: those of DeepSpeed's optimizer, whose ``params`` are numbers of rows.
    :param rows: names of the parameters that lie in each row, as the script gave them to the optimizer.
    :raises CheckpointUnreadable: there are other rows.
    """
    state: dict[int, Any] = {}
    made = []
    for group in groups:
        try:
            names = [name for row in group["params"] for name in rows[row]]
        except (KeyError, IndexError, TypeError) as error:
            raise CheckpointUnreadable(
                f"{where}: the optimizer's groups are not those of the parameters: {error!r}", "use another copy"
            ) from error
        numbers = range(len(state), len(state) + len(names))
        state.update((number, dict(state_of(name))) for number, name in zip(numbers, names, strict=True))
        made.append({**group, "params": list(numbers), NAMES: names})
    return {"state": {number: found for number, found in state.items() if found}, "param_groups": made}


def scalar(value: Any) -> Any:
    """Something of a row, for one of its parameters: each counts its own steps, so none may share it."""
    return HeldTensor(value.clone()) if isinstance(value, torch.Tensor) else value


def is_dealt_in_turn(config: Any) -> bool:
    """Whether DeepSpeed was told to deal the parameters of a row out to the ranks in turn."""
    settings = config.get("zero_optimization") if isinstance(config, dict) else None
    return isinstance(settings, dict) and bool(settings.get("round_robin_gradients"))


def original_order(names: Sequence[str], ranks: int, config: Any) -> list[str]:
    """The parameters of a row in the order in which the script gave them."""
    if not is_dealt_in_turn(config):
        return list(names)
    dealt = [number for rank in range(ranks) for number in range(rank, len(names), ranks)]
    return [name for _, name in sorted(zip(dealt, names, strict=True))]
