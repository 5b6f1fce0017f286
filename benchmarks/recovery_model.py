"""What is trained: the GPT of ``examples/bytelm``, so small that a step takes about 20 ms on one core."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
import torch.distributed
from corpus import ByteWindows, load
from model import GPT, GPTConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

_BATCH, _BLOCK, _LAYERS, _WIDTH = 8, 64, 3, 96
_HORIZON = 10_000  # of the learning rate's schedule, whatever the number of steps


@dataclass(frozen=True)
class Training:
    """Everything that an ordinary script builds before its loop."""

    model: nn.Module
    optimizer: AdamW
    scheduler: LambdaLR
    loader: DataLoader[tuple[Tensor, Tensor]]

    @classmethod
    def build(cls, *, seed: int, workers: int, threads: int) -> Training:
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        if ranks > 1:
            torch.distributed.init_process_group("gloo")
        data, _ = load()
        windows = ByteWindows(data, _BLOCK)
        loader = DataLoader(
            windows,
            batch_size=_BATCH,
            shuffle=ranks == 1,
            sampler=DistributedSampler(windows, seed=seed) if ranks > 1 else None,
            num_workers=workers,
            drop_last=True,
            persistent_workers=workers > 0,
        )
        model: nn.Module = GPT(GPTConfig(block_size=_BLOCK, layers=_LAYERS, width=_WIDTH))
        if ranks > 1:
            model = DistributedDataParallel(model)
        optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
        return cls(model, optimizer, LambdaLR(optimizer, _learning_rate), loader)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One training step; returns the loss of its batch."""
        loss: Tensor = self.model(x, y)[1]
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        return loss


def _learning_rate(step: int) -> float:
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / _HORIZON))
