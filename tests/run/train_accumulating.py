"""Training that accumulates the gradients of four micro-batches, each a step of the run, before the optimizer steps."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import resilient

EVERY = 4


@dataclass(frozen=True)
class Settings:
    steps: int = 60
    step_seconds: float = 0.01


def main() -> None:
    from uncompiled import put_the_compiler_off  # type: ignore[import-not-found]  # beside this script

    put_the_compiler_off()
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = TensorDataset(torch.randn(50, 8), torch.randn(50, 1))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    run = resilient.attach(model=model, optimizer=optimizer, data=loader)
    for step, (x, y) in run.steps(total=settings.steps):
        loss = (model(x) - y).pow(2).mean()
        (loss / EVERY).backward()
        if step % EVERY == 0:
            optimizer.step()
            optimizer.zero_grad()
        run.report(loss=loss)
        time.sleep(settings.step_seconds)


if __name__ == "__main__":
    main()
