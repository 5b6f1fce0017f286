"""A small model with everything that makes resuming hard: dropout, batch norm, a schedule, shuffling, augmentation."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from uncompiled import put_the_compiler_off  # type: ignore[import-not-found]  # beside this script

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 60
    samples: int = 50
    batch_size: int = 4
    workers: int = 0
    step_seconds: float = 0.01
    seed: int = 0
    raise_at: int = 0  # raise an error in this step, every time
    raise_once_at: int = 0  # only in the first round
    stop_quietly_at: int = 0  # leave with exit 0 without saying that the run is finished
    hang_at: int = 0  # stop moving in this step of the first round
    hang_always: bool = False  # in every round
    evaluate_at: int = 0  # evaluate after this step
    evaluate_seconds: float = 0.0
    daemon: bool = False  # start a process that detaches itself
    ballast_mb: int = 0  # dead weight in the model's state
    owned_mb: int = 0  # and in what the optimizer owns


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples with augmentation from all three CPU generators."""

    def __init__(self, samples: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(samples, 8, generator=generator)
        self.y = torch.randn(samples, 1, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(8) * 0.01 + random.random() * 0.01 + float(np.random.rand()) * 0.01
        return self.x[index] + noise, self.y[index]


def main() -> None:
    put_the_compiler_off()
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    print("drawn without a seed:", random.random(), float(np.random.rand()), float(torch.rand(())))
    torch.manual_seed(settings.seed)
    random.seed(0)
    np.random.seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1)
    )
    if settings.ballast_mb:
        model.register_buffer("ballast", torch.arange(settings.ballast_mb << 18, dtype=torch.float32))
    if settings.owned_mb:
        model.register_parameter(
            "owned", torch.nn.Parameter(torch.arange(settings.owned_mb << 18, dtype=torch.float32))
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    loader = DataLoader(
        Noisy(settings.samples), batch_size=settings.batch_size, shuffle=True, num_workers=settings.workers
    )
    first_round = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if settings.daemon:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "daemon"], start_new_session=True)
    arguments: dict[str, Any] = {"run_id": sys.argv[1]} if len(sys.argv) > 1 else {}
    run = resilient.attach(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        data=loader,
        snapshot=resilient.SnapshotSettings(every_steps=10),
        **arguments,
    )
    for step, (x, y) in run.steps(total=settings.steps):
        loss = (model(x) - y).pow(2).mean() + random.random() * 1e-3 + float(np.random.rand()) * 1e-3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.report(loss=loss, lr=scheduler.get_last_lr()[0])
        time.sleep(settings.step_seconds)
        if step == settings.evaluate_at:
            with run.phase("eval"):
                time.sleep(settings.evaluate_seconds)
        if step == settings.raise_at or (step == settings.raise_once_at and first_round):
            raise RuntimeError(f"a bug in step {step}")
        if step == settings.stop_quietly_at:
            return
        if step == settings.hang_at and (first_round or settings.hang_always):
            time.sleep(600)
    print(f"left the loop at step {run.step}, finished: {run.finished}")


if __name__ == "__main__":
    main()
