"""Two ranks, one of which reads its data slowly, and stands still in another way in each of the first two rounds."""

from __future__ import annotations

import os
import random
import signal
import threading
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
    steps: int = 90
    hangs: bool = True


class SlowOnOneRank(Dataset[torch.Tensor]):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.full((4,), index / 2000)


def a_lock_that_nobody_opens() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, number = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    dataset = SlowOnOneRank(0.01 * rank)
    run = resilient.attach(
        model=model,
        optimizer=optimizer,
        data=DataLoader(dataset, batch_size=2, sampler=DistributedSampler(dataset, seed=5)),
    )
    for step, batch in run.steps(total=settings.steps):
        loss = model(batch).pow(2).mean()
        if settings.hangs and rank == 1 and (number, step) == (0, 75):
            os.kill(os.getpid(), signal.SIGSTOP)
        if settings.hangs and rank == 1 and (number, step) == (1, 80):
            a_lock_that_nobody_opens()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
