"""A quick script with all that makes resuming hard, on one rank or several. It leaves the numbers of its processes in
``pids/``.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 120
    samples: int = 54
    batch_size: int = 4
    workers: int = 0  # of the DataLoader
    step_seconds: float = 0.01
    ballast_mb: int = 0  # dead weight in the model's buffers, which are copied at once
    owned_mb: int = 0  # and in what the optimizer owns, which is copied while the next step runs
    sharded: bool = False  # the model is spread over the ranks, by FSDP2
    pids: str = ""


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples with augmentation from all three CPU generators."""

    def __init__(self, samples: int, pids: str) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 8, generator=generator)
        self.y = torch.randn(samples, 1, generator=generator)
        self.pids = pids
        self.told = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.told != os.getpid():
            self.told = os.getpid()
            (Path(self.pids) / str(os.getpid())).touch()
        noise = torch.randn(8) * 0.01 + random.random() * 0.01 + float(np.random.rand()) * 0.01
        return self.x[index] + noise, self.y[index]


def weight(megabytes: int) -> torch.Tensor:
    return torch.arange(megabytes << 18, dtype=torch.float32)


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """Over all ranks, which begin with the same weights."""
    from torch.distributed.fsdp import fully_shard  # it takes a second, and most campaigns need none

    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)
    for layer in model.children():
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    return model


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    ranks, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    torch.manual_seed(rank)
    random.seed(rank)
    np.random.seed(rank)
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1)
    )
    if settings.ballast_mb:
        model.register_buffer("ballast", weight(settings.ballast_mb))
    if settings.owned_mb:
        model.register_parameter("owned", torch.nn.Parameter(weight(settings.owned_mb)))
    owned = getattr(model, "owned", torch.zeros(()))
    sampler: DistributedSampler[Any] | None = None
    dataset = Noisy(settings.samples, settings.pids)
    if ranks > 1:
        dist.init_process_group("gloo")
        model = _spread(model) if settings.sharded else DistributedDataParallel(model)
        sampler = DistributedSampler(dataset, seed=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    loader = DataLoader(
        dataset,
        batch_size=settings.batch_size,
        shuffle=sampler is None,
        sampler=sampler,
        num_workers=settings.workers,
    )
    run = resilient.attach(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
    for _, (x, y) in run.steps(total=settings.steps):
        loss = (model(x) - y).pow(2).mean() + random.random() * 1e-3 + float(np.random.rand()) * 1e-3
        loss = loss + 0.0 * owned.sum()  # its weight decays all the same, so every step changes all of it
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.report(loss=loss, lr=scheduler.get_last_lr()[0])
        time.sleep(settings.step_seconds)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
