"""Several ranks over which parameters and optimizer state are spread, as FSDP2 does it: gloo, dropout, clipping."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 40
    samples: int = 52
    batch_size: int = 4
    step_seconds: float = 0.01
    replicas: int = 1  # with more, each of them is spread over its own part of the ranks (HSDP)


def main() -> None:
    settings = resilient.config(Settings)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    shape = (settings.replicas, ranks // settings.replicas)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
    mesh = mesh if settings.replicas > 1 else mesh["shard"]
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 33), torch.nn.LayerNorm(33), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(33, 1)
    )
    numbers = torch.arange(settings.samples)
    data = TensorDataset(torch.randn(settings.samples, 8), torch.randn(settings.samples, 1), numbers)
    for layer in (model[0], model[4]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    torch.manual_seed(rank)  # each rank drops out other units
    random.seed(rank)
    np.random.seed(rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    loader = DataLoader(data, batch_size=settings.batch_size, sampler=DistributedSampler(data, seed=5))
    run = resilient.attach(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
    for step, (x, y, sample) in run.steps(total=settings.steps):
        print(f"step {step} samples {sample.tolist()}", flush=True)
        loss = (model(x) - y).pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        run.report(loss=loss)
        time.sleep(settings.step_seconds)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
