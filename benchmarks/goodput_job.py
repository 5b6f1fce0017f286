"""The one job of the goodput benchmark: model, data, optimizer, and the spike; the same for all contestants.

Whatever a contestant brings besides, its loop and its checkpoints, stands in the script that it runs. There is no
dropout, so that nothing is drawn while training, and the losses of all contestants can be compared bit for bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from corpus import ByteWindows, load
from model import GPT, GPTConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Subset

from benchmarks.byte_loss import evaluate
from benchmarks.goodput_options import Options
from benchmarks.goodput_trace import SPIKE_STEPS

BATCH = 8
CLIP = 1.0
_BLOCK, _LAYERS, _WIDTH = 64, 3, 96
_RATE, _WARMUP = 2e-3, 20
_SPIKE_FACTOR = 100.0

Samples = Subset[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Training:
    """Everything that a script builds before its loop."""

    model: GPT
    optimizer: AdamW
    scheduler: LambdaLR
    samples: Samples

    @classmethod
    def build(cls, options: Options) -> Training:
        torch.set_num_threads(1)
        torch.manual_seed(options.seed)
        model = GPT(GPTConfig(block_size=_BLOCK, layers=_LAYERS, width=_WIDTH, dropout=0.0))
        # Not tied: safetensors, in which the Trainer saves, refuses parameters that share memory.
        model.head.weight = nn.Parameter(model.head.weight.detach().clone())
        optimizer = AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95))
        windows = ByteWindows(load()[0], _BLOCK)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(options.seed))
        return cls(model, optimizer, LambdaLR(optimizer, _warm_up), Subset(windows, order.tolist()))

    def step(self, x: Tensor, y: Tensor, step: int, spike: Spike) -> tuple[Tensor, Tensor]:
        """One training step as everybody writes it; returns the loss of its batch and the norm of its gradient."""
        loss: Tensor = self.model(x, y)[1]
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        spike.apply(step, self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        return loss, norm


def _warm_up(done: int) -> float:
    return min(1.0, (done + 1) / _WARMUP)


class Spike:
    """A fault of the machine: for some steps the updates are a hundred times too large. It happens once.

    It is over for good when one of its steps comes a second time, so that whoever goes back to before it is rid of it.
    """

    def __init__(self, options: Options) -> None:
        self._steps = range(options.spike, options.spike + SPIKE_STEPS) if options.spike else range(0)
        self._reached = options.spike_reached
        self._over = options.folder / "spike-over"

    def apply(self, step: int, optimizer: Optimizer) -> None:
        """To be called just before ``optimizer.step()``; the scheduler sets the rate anew after it."""
        if step not in self._steps or self._over.exists():
            return
        if self._reached.exists() and step <= int(self._reached.read_text()):
            self._over.touch()
            return
        fresh = self._reached.with_suffix(".new")  # the process may be killed at any moment
        fresh.write_text(str(step))
        fresh.replace(self._reached)
        for group in optimizer.param_groups:
            group["lr"] *= _SPIKE_FACTOR


def finish(model: GPT, options: Options) -> None:
    """Leave behind what the final weights are worth, nats per byte."""
    options.final.write_text(json.dumps({"val_loss": evaluate(model, load()[1], _BLOCK)}))
