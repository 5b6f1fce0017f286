"""Bits that flip, as in memory or in a processor that errs without anybody noticing: for drills.

A flip is done where nothing sees it: versions of tensors, which tell what was changed, stay as they are.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import dataloader

from resilient.protocol.drill import Order

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NARROW = 32  # the width that orders count bits for

Take = Callable[[str], Order | None]
"""From the name of a thing to the order to flip a bit of it now, once for each order and step."""


def flip_bit(tensor: Tensor, bit: int) -> None:
    """Flip one bit of the element in the middle, in place.

    :param bit: from the lowest, as in a number of 32 bits; in others, the one that is as far from the highest. Of whole
        numbers always the lowest: with a higher one, a token or a label is one that there cannot be.
    """
    width = 8 * tensor.element_size()
    place = max(0, min(width - 1, bit + width - _NARROW)) if tensor.is_floating_point() else 0
    mask = 1 << place
    mask -= (1 << width) if place == width - 1 and width > 8 else 0  # the sign, in two's complement
    index = tuple(size // 2 for size in tensor.shape)
    with torch.no_grad():
        element = tensor.data[index].reshape(1).clone()
        whole = element.view(_INTEGER[tensor.element_size()])
        whole ^= torch.tensor(mask, dtype=whole.dtype, device=whole.device)
        tensor.data[index] = element[0]


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """All tensors with elements in what a loader yields, those of fractions first."""
    found = [tensor for tensor in _walk(batch) if tensor.numel() and not tensor.is_complex()]
    return itertools.chain(filter(Tensor.is_floating_point, found), found)


def _walk(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (list, tuple, Mapping)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _walk(part)


def first_gradient(root: Tensor) -> Tensor | None:
    """The gradient of a leaf that ``root`` was computed from, after the backward pass."""
    nodes, seen = deque([root.grad_fn]), set()
    while nodes:
        node = nodes.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and leaf.grad is not None and leaf.grad.layout is torch.strided:
            return leaf.grad
        nodes.extend(following for following, _ in node.next_functions)
    return None


class Flips:
    """Carries out orders to flip bits, each at the place in a step where its thing has just been made."""

    def __init__(self, take: Take) -> None:
        self._take = take

    def arm(self) -> None:
        """Look at every batch of a ``DataLoader`` and at every call of a module from now on."""
        disable: Callable[..., Any] = torch.compiler.disable
        register_module_forward_pre_hook(disable(self.before_forward))
        loading: Any = dataloader._BaseDataLoaderIter  # noqa: SLF001  what all loaders iterate with
        loading.__next__ = self.wrap_next(loading.__next__)

    def wrap_next(self, following: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A loader's ``__next__``, with a bit flipped in the batch where that is ordered."""

        def wrapped(loader: Any) -> Any:
            batch = following(loader)
            if (order := self._take("batch")) is not None:
                for tensor in itertools.islice(tensors_of(batch), 1):
                    flip_bit(tensor, order.bit)
            return batch

        return wrapped

    def before_forward(self, module: nn.Module, *_: Any) -> None:
        """Flip a bit of the last weight of the first module that has any, before it computes with it: what is done to
        an earlier one, a normalisation that comes after may undo, and an embedding may not use.
        """
        weights = [one for one in module.parameters() if one.numel() and one.is_floating_point()]
        weight = weights[-1] if weights else None
        if weight is not None and module.training and (order := self._take("weight")) is not None:
            flip_bit(weight, order.bit)

    def before_backward(self, roots: Sequence[Any]) -> None:
        """Flip a bit of the loss; what is learned from it stays right."""
        root = next(tensors_of(roots), None)
        if root is not None and (order := self._take("loss")) is not None:
            flip_bit(root, order.bit)

    def after_backward(self, roots: Sequence[Any]) -> None:
        """Flip a bit of a gradient."""
        found = (first_gradient(root) for root in tensors_of(roots))
        gradient = next((one for one in found if one is not None), None)
        if gradient is not None and (order := self._take("gradient")) is not None:
            flip_bit(gradient, order.bit)
