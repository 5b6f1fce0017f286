"""Trees that are in memory, as somebody's loader has made them, with lazy tensors in place of the tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resilient.convert.checkpoint import HeldTensor, LazyTensor, Tree, changed
from resilient.errors import StateError
from resilient.worker.leaves import as_tensor

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_Lazy = Callable[[str, torch.Tensor], LazyTensor]


def held(_path: str, tensor: torch.Tensor) -> LazyTensor:
    return HeldTensor(tensor)


def lazy_tree(tree: Any, where: Path, lazy: _Lazy = held) -> Tree:
    """The same tree. Tensors that have the same elements in the same memory become one lazy tensor.

    :param where: it was found, for messages.
    :param lazy: makes one of a tensor, which has a path.
    :raises StateError: a tensor is none of plain, dense elements.
    """
    known: dict[Any, LazyTensor] = {}

    def change(path: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            try:
                return known.setdefault(id(value), HeldTensor(as_tensor(value).reshape(value.shape), is_array=True))
            except (TypeError, ValueError):
                return value  # of strings or objects; whoever writes it says what he thinks of it
        if not isinstance(value, torch.Tensor):
            return value
        tensor = _plain(path, value, where)
        same = (tensor.data_ptr() or id(value), tensor.dtype, tensor.shape, tensor.stride())
        if same not in known:
            known[same] = lazy(path, tensor)
        return known[same]

    return changed(tree, change)


def _plain(path: str, tensor: torch.Tensor, where: Path) -> torch.Tensor:
    if type(tensor) not in _PLAIN or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        what = f"a {type(tensor).__name__} of layout {tensor.layout}" + (" without data" if tensor.is_meta else "")
        raise StateError(
            f"{where}: the tensor at {path} is {what}, and not one of plain, dense elements",
            "leave it out with --only, or save it as a plain tensor",
        )
    return tensor.detach().resolve_conj().resolve_neg().cpu()
