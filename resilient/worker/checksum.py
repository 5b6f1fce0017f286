"""Checksums of many tensors that wait for no device.

Tensors on the CPU go through an xxh3-64. Of those on an accelerator the elements are summed there, as integers of their
size and in 64 bits that wrap around, so any single flipped bit changes the sum; the sums are added with odd weights.
The result is a number that lies on the device until somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import xxhash

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: spreads low bits over the high ones
_FLOAT_BITS = 53


@dataclass(frozen=True)
class Checksum:
    """:param host: of what lies on the CPU, 64 bits.
    :param device: of what lies on accelerators, an int64 there; None where nothing does.
    """

    host: int
    device: torch.Tensor | None = None

    def then(self, other: Checksum) -> Checksum:
        """Of both, in this order."""
        host = (self.host * _ODD + other.host) & _MASK
        if self.device is None or other.device is None:
            return Checksum(host, self.device if other.device is None else other.device)
        there = other.device.to(self.device.device, non_blocking=True)
        return Checksum(host, self.device * _signed(_ODD) + there)

    def value(self) -> Any:
        """53 bits of it, as a metric takes it: a float, or a tensor on the device."""
        if self.device is None:
            return float(self.host >> 64 - _FLOAT_BITS)
        mixed = (self.device + _signed(self.host)) * _signed(_ODD)
        return mixed >> 64 - _FLOAT_BITS & (1 << _FLOAT_BITS) - 1


@torch.no_grad()
def checksum_of(tensors: Iterable[torch.Tensor]) -> Checksum | None:
    """Of the plain, dense ones among ``tensors``, and of the local parts of distributed ones; None without any."""
    digest, found = xxhash.xxh3_64(), False
    sums: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in map(_local, tensors):
        if tensor is None or not tensor.numel():
            continue
        found = True
        if tensor.is_cpu:
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            sums.setdefault(tensor.device, []).append(tensor.view(_INTEGERS[tensor.itemsize]).sum(dtype=torch.int64))
    if not found:
        return None
    total = Checksum(digest.intdigest())
    for parts in sums.values():
        stacked = torch.stack(parts)
        weights = torch.arange(1, 2 * len(parts), 2, device=stacked.device)
        total = total.then(Checksum(0, (stacked * weights).sum()))
    return total


def _local(tensor: torch.Tensor) -> torch.Tensor | None:
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return None
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
