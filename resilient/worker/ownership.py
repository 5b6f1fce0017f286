"""Which tensors only an ``optimizer.step()`` changes: the parameters and the state of the registered optimizers.

A tensor counts as owned when it is exactly such a parameter or state tensor, or another view of the very same
elements. One that shares only a part of the memory does not: what else lies in it may change at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from resilient.worker.leaves import same_view
from resilient.worker.positions import Stateful
from resilient.worker.sharded import local_part


def owned_by_optimizers(objects: Mapping[str, Stateful]) -> dict[int, torch.Tensor]:
    """What the optimizers own, by the address of its elements on this rank; of several views that begin at one address,
    any. Distributed tensors are given as they are.
    """
    owned: dict[int, torch.Tensor] = {}
    for tensor in _owned(objects.values()):
        local = local_part(tensor)
        if local.layout is torch.strided and (local.is_cpu or local.is_cuda):  # others are copied at once
            owned[local.data_ptr()] = tensor
    owned.pop(0, None)  # of tensors without elements
    return owned


def is_owned(tensor: torch.Tensor, owned: Mapping[int, torch.Tensor]) -> bool:
    found = owned.get(tensor.data_ptr())
    return found is not None and same_view(local_part(found), tensor)


def parameters_of(objects: Collection[Any]) -> list[torch.Tensor]:
    """The parameters of all optimizers among the objects, frozen ones too."""
    parameters: list[torch.Tensor] = []
    for item in objects:
        if isinstance(item, torch.optim.Optimizer):
            for group in item.param_groups:
                parameters.extend(group["params"])
    return parameters


def named_parameters(objects: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """By optimizer, the names of its parameters in the modules among the objects, as ``model.0.weight``.

    They come in the order in which its state counts them, with None for those that no module has. Optimizers without
    any such are left out.
    """
    names = {
        id(parameter): f"{name}.{key}"
        for name, item in objects.items()
        if isinstance(item, torch.nn.Module)
        for key, parameter in item.named_parameters()
    }
    found = {
        name: [names.get(id(parameter)) for parameter in parameters_of([item])]
        for name, item in objects.items()
        if isinstance(item, torch.optim.Optimizer)
    }
    return {name: known for name, known in found.items() if any(known)}


def _owned(objects: Collection[Any]) -> Iterator[torch.Tensor]:
    yield from parameters_of(objects)
    for item in objects:
        if isinstance(item, torch.optim.Optimizer):
            for state in item.state.values():
                values = state.values() if isinstance(state, dict) else ()
                yield from (value for value in values if isinstance(value, torch.Tensor))
