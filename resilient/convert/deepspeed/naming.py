"""Names for the parameters of an optimizer that has only numbers for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.convert.checkpoint import LazyTensor, Tree
from resilient.convert.deepspeed.optimizer import NAMES
from resilient.errors import StateError

_WRAPPER = "module."


def named_parameters(tree: Tree) -> Tree:
    """The same state, in whose optimizer each group says the names that its parameters have in the model.

    Where the groups do not say them, parameters are taken to be in the model's order, if the shapes of the optimizer's
    tensors leave no doubt about that.

    :raises StateError: they do, or it is not the optimizer of this model.
    """
    optimizer, model = tree["optimizer"], tree["model"]
    if not isinstance(optimizer, dict) or not {"state", "param_groups"} <= set(optimizer):
        raise StateError("the optimizer's state is not that of a torch optimizer", "convert that of one optimizer")
    if not isinstance(model, dict) or not all(isinstance(name, str) for name in model):
        raise StateError("the model's state is not that of one module", "convert that of one model")
    groups = optimizer["param_groups"]
    if not all(len(group.get(NAMES) or ()) == len(group["params"]) for group in groups):
        groups = _in_order(optimizer, model)
    for group in groups:
        for name in group[NAMES]:
            if not isinstance(model.get(name), LazyTensor):
                raise StateError(f"the optimizer has a parameter {name}, and the model has none", "convert both of one")
    return {**tree, "optimizer": {**optimizer, "param_groups": groups}}


def _in_order(optimizer: Any, model: Any) -> Sequence[Any]:
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    once = {id(item): name for name, item in reversed(model.items()) if _may_be_trained(item)}
    names = [name for name in model if name in set(once.values())]
    shapes = [_shape_in(optimizer["state"].get(number, {})) for number in numbers]
    if len(names) != len(numbers) or any(
        shape is not None and shape != model[name].shape for shape, name in zip(shapes, names, strict=True)
    ):
        raise StateError(
            f"which of the model's {len(names)} parameters the optimizer's {len(numbers)} are cannot be told",
            "make the optimizer of model.named_parameters(), so that it saves their names",
        )
    by_number = dict(zip(numbers, names, strict=True))
    return [{**group, NAMES: [by_number[number] for number in group["params"]]} for group in optimizer["param_groups"]]


def _may_be_trained(item: Any) -> bool:
    return isinstance(item, LazyTensor) and item.dtype.is_floating_point


def _shape_in(state: Any) -> tuple[int, ...] | None:
    shapes = [item.shape for item in state.values() if isinstance(item, LazyTensor) and item.shape]
    return shapes[0] if shapes else None
