"""Several ranks, as a script for torchrun has them: gloo, DistributedDataParallel, DistributedSampler."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 60
    samples: int = 52
    batch_size: int = 4
    workers: int = 0
    step_seconds: float = 0.01
    terminate_at: int = 0  # the last rank sends itself, and nobody else, SIGTERM in this step of the first round
    accumulate: int = 1  # steps of which the gradients are summed up


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples with augmentation."""

    def __init__(self, samples: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 8, generator=generator)
        self.y = torch.randn(samples, 1, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index] + torch.randn(8) * 0.01 + random.random() * 0.01, self.y[index]


def main() -> None:
    settings = resilient.config(Settings)
    told = {name: os.environ[name] for name in ("RANK", "MASTER_PORT", "OMP_NUM_THREADS")}
    print(f"rank {told['RANK']} port {told['MASTER_PORT']} threads {told['OMP_NUM_THREADS']}", flush=True)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)  # each rank drops out other units
    random.seed(rank)
    np.random.seed(rank)
    model = DistributedDataParallel(
        torch.nn.Sequential(
            torch.nn.Linear(8, 32),
            torch.nn.BatchNorm1d(32),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(32, 160),  # large enough to be stored once
            torch.nn.Linear(160, 1),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    dataset = Noisy(settings.samples)
    loader = DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=DistributedSampler(dataset, seed=5),
        num_workers=settings.workers,
    )
    run = resilient.attach(model=model, optimizer=optimizer, data=loader)
    first_round = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    for step, (x, y) in run.steps(total=settings.steps):
        loss = (model(x) - y).pow(2).mean() + random.random() * 1e-3
        loss.backward()
        if step % settings.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        run.report(loss=loss)
        time.sleep(settings.step_seconds)
        if step == settings.terminate_at and first_round and rank == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
    print(f"left the loop at step {run.step}, finished: {run.finished}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
