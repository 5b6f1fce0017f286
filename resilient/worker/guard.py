"""Seeing that a tensor was changed while it was being copied.

Torch counts the changes of a tensor in its ``_version``. Writes through ``tensor.data`` it does not count; to see the
common ones, such as exchanging the weights for their averages or clipping them, a few elements of the largest tensors
are compared as well, bit for bit. A write that misses all of these, or one on an accelerator, is not seen.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

_MOST_SAMPLED = 256
_ELEMENTS = 4
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # compared as bits: nan equals nan


class Guard:
    """Tensors as they were at one moment."""

    def __init__(self, tensors: Sequence[torch.Tensor], samples: Samples) -> None:
        self._tensors = tensors
        self._versions = _versions(tensors)
        self._samples = samples
        self._sampled = samples.take()

    def unchanged(self) -> bool:
        """Whether all are as they were, as far as can be seen."""
        return _versions(self._tensors) == self._versions and all(
            torch.equal(new, old) for new, old in zip(self._samples.take(), self._sampled, strict=True)
        )


class Samples:
    """A few elements of each of the largest CPU tensors among some, spread evenly over it."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        dense = [tensor for tensor in tensors if tensor.is_cpu and _is_dense(tensor)]
        dense.sort(key=torch.Tensor.numel, reverse=True)
        self._views: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in dense[:_MOST_SAMPLED]:
            count = min(_ELEMENTS, tensor.numel())
            bits = tensor.detach().as_strided((count,), (tensor.numel() // count,)).view(_INTEGERS[tensor.itemsize])
            self._views.setdefault(bits.dtype, []).append(bits)

    def of(self, tensors: Sequence[torch.Tensor]) -> Samples:
        """The same for other tensors; this very object when they are the same ones."""
        same = len(tensors) == len(self._tensors) and all(map(operator.is_, tensors, self._tensors))
        return self if same else Samples(tensors)

    def take(self) -> list[torch.Tensor]:
        """The elements' bits, by size of element."""
        return [torch.cat(views) for views in self._views.values()]


def _versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]  # noqa: SLF001  the only way to ask


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements lie in one piece of memory, in whatever order."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
