"""The language model of `examples/bytelm`, trained by DeepSpeed's engine with ZeRO on several processes.

Only the lines that say `resilient`, `states` or `run.` are not what any other script for DeepSpeed would have.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import resilient
from resilient.integrations.deepspeed import states

sys.path.append(str(Path(__file__).parent.parent / "bytelm"))
from corpus import ByteWindows, load
from model import GPT, GPTConfig


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    stage: int = 2  # of ZeRO
    accumulate: int = 2  # micro-batches, each a step of the run, for one of the optimizer's
    bf16: bool = True
    lr: float = 2e-3
    steps: int = 200
    batch_size: int = 8  # of each process
    block_size: int = 128  # bytes
    layers: int = 3
    heads: int = 4
    width: int = 128
    dropout: float = 0.1
    seed: int = 0
    max_bytes: int = 0  # of training text; 0 takes all of it, about 12 MB


def main() -> None:
    settings = resilient.config(Settings)
    if not torch.cuda.is_available():
        # A faster all-reduce for CPUs, which DeepSpeed would first compile for some minutes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
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
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.95))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps),
        config={
            "train_micro_batch_size_per_gpu": settings.batch_size,
            "gradient_accumulation_steps": settings.accumulate,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": settings.bf16},
            "zero_optimization": {"stage": settings.stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    torch.manual_seed(settings.seed + rank)  # and other units dropped out in each process

    run = resilient.attach(**states(engine), data=loader)
    for step, (x, y) in run.steps(total=settings.steps):
        _, loss = engine(x.to(engine.device), y.to(engine.device))
        engine.backward(loss)
        engine.step()
        run.report(loss=loss)
        if rank == 0 and step % 20 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}  on {ranks} processes", flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
