"""The language model of `examples/bytelm`, spread over several processes that each have a part of it (FSDP2).

Only the lines that say `resilient` or `run.` are not what any other script for torchrun would have.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import resilient

sys.path.append(str(Path(__file__).parent.parent / "bytelm"))
from corpus import ByteWindows, load
from model import GPT, GPTConfig


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    lr: float = 2e-3
    steps: int = 200
    batch_size: int = 8  # of each process
    block_size: int = 128  # bytes
    layers: int = 3
    heads: int = 4
    width: int = 128
    dropout: float = 0.1
    replicas: int = 1  # with 2, each half of the processes has all of the model between them (HSDP)
    seed: int = 0
    max_bytes: int = 0  # of training text; 0 takes all of it, about 12 MB


def main() -> None:
    settings = resilient.config(Settings)
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    shape = (settings.replicas, ranks // settings.replicas)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    mesh = mesh if settings.replicas > 1 else mesh["shard"]
    train, _ = load(max_bytes=settings.max_bytes or None)
    windows = ByteWindows(train, settings.block_size)
    sampler = DistributedSampler(windows, seed=settings.seed)
    loader = DataLoader(windows, batch_size=settings.batch_size, sampler=sampler, drop_last=True)
    torch.manual_seed(settings.seed)  # the same weights everywhere
    config = GPTConfig(
        block_size=settings.block_size,
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
    )
    model = GPT(config).to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.95))
    torch.manual_seed(settings.seed + rank)  # and other units dropped out in each process

    run = resilient.attach(model=model, optimizer=optimizer, data=loader)
    for step, (x, y) in run.steps(total=settings.steps):
        _, loss = model(x.to(device), y.to(device))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.report(loss=loss, grad_norm=norm.full_tensor())
        if rank == 0 and step % 20 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
