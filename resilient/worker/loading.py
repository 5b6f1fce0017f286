"""Giving an object its state back exactly, where torch's own ``load_state_dict`` would change it on the way."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from resilient.snapshot.image import Layout
from resilient.worker.leaves import DTYPES
from resilient.worker.positions import Stateful
from resilient.worker.sharded import local_part


def load(item: Stateful, state: Any, image: memoryview | None, *, same_types: bool) -> None:
    """``item.load_state_dict(state)``, and what is missing there.

    :param image: where tensors in ``state`` may be views of; none of the object's own is one afterwards. None where
        they own their memory.
    :param same_types: the parameters have the types that they had when the state was taken.
    """
    if isinstance(item, torch.nn.Module):
        _add_versions(item, state)
    item.load_state_dict(state)
    if isinstance(item, torch.nn.Module):
        if image is not None:
            _leave_image(item, image)
    elif type(item).load_state_dict is torch.optim.Optimizer.load_state_dict and same_types:
        _keep_types(item, state)  # type: ignore[arg-type]  # whose method it has


def parameters_have_types_of(layout: Layout, objects: Mapping[str, Any]) -> bool:
    """Whether no parameter of the modules among ``objects`` has another type than in the image."""
    return all(
        place.spec.dtype == DTYPES.get(parameter.dtype)
        for name, item in objects.items()
        if isinstance(item, torch.nn.Module)
        for key, parameter in item.named_parameters()
        if (place := layout.tensors.get(f"{name}.{key}")) is not None
    )


def _add_versions(module: torch.nn.Module, state: Any) -> None:
    """Modules convert a state without a version as one of their first release; ours is one of the script's."""
    if type(state) is OrderedDict and not hasattr(state, "_metadata"):
        versions = getattr(module.state_dict(), "_metadata", None)
        if versions is not None:
            state._metadata = versions  # type: ignore[attr-defined]  # noqa: SLF001  torch's place for it


def _leave_image(module: torch.nn.Module, image: memoryview) -> None:
    """A module that loads by assignment (``assign=True``) has views of the slot, which the next snapshots overwrite."""
    start = torch.frombuffer(image, dtype=torch.uint8).data_ptr()
    for tensor in map(local_part, itertools.chain(module.parameters(), module.buffers())):
        if tensor.is_cpu and tensor.layout is torch.strided and start <= tensor.data_ptr() < start + len(image):
            tensor.data = tensor.data.clone()


def _keep_types(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Torch converts an optimizer's state to the types of the parameters, whatever it was: averages in float32 of
    parameters in bfloat16 would come back rounded.
    """
    numbers = itertools.chain.from_iterable(group["params"] for group in state["param_groups"])
    parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for number, parameter in zip(numbers, parameters, strict=True):
        loaded = optimizer.state.get(parameter)
        if loaded is not None:
            optimizer.state[parameter] = _typed_as(state["state"].get(number), loaded)


def _typed_as(saved: Any, loaded: Any) -> Any:
    """``loaded``, with each tensor whose type has changed replaced by the one in ``saved``."""
    if isinstance(saved, torch.Tensor) and isinstance(loaded, torch.Tensor):
        return loaded if loaded.dtype is saved.dtype else saved.to(loaded.device)
    if type(saved) is not type(loaded):
        return loaded
    if isinstance(loaded, dict) and saved.keys() == loaded.keys():
        return {key: _typed_as(saved[key], loaded[key]) for key in loaded}
    if type(loaded) in (list, tuple) and len(saved) == len(loaded):
        return type(loaded)(map(_typed_as, saved, loaded))
    return loaded
