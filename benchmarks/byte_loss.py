"""What the weights of a byte-level GPT are worth, by the same windows for every run."""

from __future__ import annotations

import torch
from corpus import Bytes, ByteWindows
from model import GPT

_WINDOWS, _BATCH = 1024, 64


@torch.no_grad()
def evaluate(model: GPT, val: Bytes, block: int) -> float:
    """Mean loss over 1,024 windows of ``block`` bytes that lie evenly in ``val``, nats per byte."""
    windows = ByteWindows(val, block)
    starts = torch.linspace(0, len(windows) - 1, _WINDOWS).long().tolist()
    model.eval()
    losses = []
    for first in range(0, len(starts), _BATCH):
        pairs = [windows[start] for start in starts[first : first + _BATCH]]
        x, y = (torch.stack(column) for column in zip(*pairs, strict=True))
        losses.append(float(model(x, y)[1]))
    return sum(losses) / len(losses)
