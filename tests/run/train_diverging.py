"""A small model whose data has poison in it: a sample that makes the loss infinite for good, or throws it far off.

Each step's samples are written to a file, so that a test can see which were ever trained on.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from uncompiled import put_the_compiler_off  # type: ignore[import-not-found]  # beside this script

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 60
    samples: int = 800
    batch_size: int = 4
    workers: int = 0
    step_seconds: float = 0.01
    deadly: list[int] = field(default_factory=list)  # samples after which no weight is a number
    heavy: list[int] = field(default_factory=list)  # after which the loss is a thousand times what it was
    raises: bool = False  # the script ends itself when the loss is not finite
    consumed: str = ""  # a directory for the record of what was trained on
    lineage: str = ""  # the run's lineage.json: wait there until the last snapshot is known to the supervisor


class Poisoned(Dataset[tuple[int, torch.Tensor, torch.Tensor]]):
    def __init__(self, settings: Settings) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(settings.samples, 8, generator=generator)
        self.y = self.x.sum(1, keepdim=True) + 0.1 * torch.randn(settings.samples, 1, generator=generator)
        for index in settings.deadly:
            self.x[index] = float("inf")
        for index in settings.heavy:
            self.x[index] = 100.0
            self.y[index] = -1e5

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        return index, self.x[index], self.y[index]


def wait_for_snapshot(lineage: Path, step: int) -> None:
    """How soon a snapshot is durable depends on the disk; which of them are good enough to go back to must not."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if lineage.exists() and any(
            known[0] == step for known in json.loads(lineage.read_text())["known"]["snapshots"]
        ):
            return
        time.sleep(0.01)


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
    model: torch.nn.Module = torch.nn.Linear(8, 1)
    if ranks > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    else:
        put_the_compiler_off()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    dataset = Poisoned(settings)
    sampler: DistributedSampler[Any] | None = DistributedSampler(dataset, ranks, rank, seed=5) if ranks > 1 else None
    loader = DataLoader(
        dataset, settings.batch_size, shuffle=sampler is None, sampler=sampler, num_workers=settings.workers
    )
    run = resilient.attach(
        model=model, optimizer=optimizer, data=loader, snapshot=resilient.SnapshotSettings(every_steps=10)
    )
    record = (Path(settings.consumed) / f"rank-{rank}.jsonl").open("a", buffering=1) if settings.consumed else None
    for step, (indexes, x, y) in run.steps(total=settings.steps):
        if record is not None:
            record.write(json.dumps([int(os.environ["TORCHELASTIC_RESTART_COUNT"]), step, indexes.tolist()]) + "\n")
        if settings.lineage and "RESILIENT_PLACE" not in os.environ and step % 10 == 5 and step > 10:
            wait_for_snapshot(Path(settings.lineage), step - 5)
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss)
        if settings.raises and not torch.isfinite(loss):
            raise FloatingPointError("the loss is not finite")
        time.sleep(settings.step_seconds)
    if ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
