"""What of a checkpoint is wanted: a branch of its tree, and other types of numbers."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, Tree, changed, tensors_of
from resilient.convert.lazy import Converted
from resilient.errors import UsageError

_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_ALIASES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float64": "fp64",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
}


def dtype_named(name: str) -> torch.dtype:
    """:raises UsageError: there is no such type."""
    plain = name.removeprefix("torch.")
    found = _DTYPES.get(_ALIASES.get(plain, plain))
    if found is None:
        raise UsageError(f"--dtype {name} is no type of numbers", f"use one of {', '.join(_DTYPES)}")
    return found


def selected(tree: Tree, only: str) -> Tree:
    """The branch of a tree at a path with dots. Keys may have dots themselves.

    :raises UsageError: there is none.
    """
    found = _branch(tree, only)
    if found is _NOTHING:
        keys = [str(key) for key in tree] if isinstance(tree, dict) else []
        close = difflib.get_close_matches(only, keys, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(keys[:20]) or 'no names'}"
        raise UsageError(f"--only {only}: the checkpoint has nothing of that name", hint)
    return found


_NOTHING = object()


def _branch(tree: Any, path: str) -> Any:
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return _NOTHING
    for key, item in tree.items():
        if str(key) == path:
            return item
    for key, item in tree.items():
        if path.startswith(f"{key}."):
            found = _branch(item, path[len(str(key)) + 1 :])
            if found is not _NOTHING:
                return found
    return _NOTHING


def with_dtype(tree: Tree, dtype: torch.dtype) -> tuple[Tree, list[str]]:
    """The tree with its floating-point tensors in another type, and what was left as it is.

    The state of an optimizer keeps its types: a step counter does not survive bfloat16. So do tensors without
    dimensions, for the same reason, and arrays.
    """
    made: dict[int, LazyTensor] = {}
    kept: Counter[str] = Counter()
    of_optimizers = {id(tensor) for tensor in _in_optimizers(tree)}

    def change(_path: str, value: Any) -> Any:
        if not isinstance(value, LazyTensor) or not value.dtype.is_floating_point or value.dtype == dtype:
            return value
        if id(value) in of_optimizers:
            kept["tensors in the state of optimizers"] += 1
        elif value.is_array or not value.shape:
            kept["arrays, and tensors without dimensions,"] += 1
        else:
            return made.setdefault(id(value), Converted(value, dtype))
        return value

    found = changed(tree, change)
    return found, [f"{what} keep their types: {count}" for what, count in kept.items()]


def _in_optimizers(node: Any) -> Iterator[LazyTensor]:
    """The tensors below whatever has the form of an optimizer's ``state_dict()``."""
    if isinstance(node, dict) and {"state", "param_groups"} <= node.keys():
        yield from tensors_of(node).values()
    elif isinstance(node, (dict, list, tuple)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _in_optimizers(item)
