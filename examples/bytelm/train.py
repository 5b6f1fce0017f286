"""Train a byte-level language model on Python's standard library, and survive whatever happens meanwhile.

Only the lines that say `resilient` or `run.` are not what any other training script would have.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus import Bytes, ByteWindows, Damaged, load
from model import GPT, GPTConfig
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

import resilient


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    lr: float = 2e-3  # the peak, reached after the warm-up
    weight_decay: float = 0.1
    warmup_steps: int = 20
    steps: int = 300
    batch_size: int = 16
    block_size: int = 128  # bytes
    layers: int = 3
    heads: int = 4
    width: int = 128
    dropout: float = 0.1
    workers: int = 1
    eval_every: int = 50
    eval_batches: int = 8
    grad_clip: float = 1.0
    seed: int = 0
    max_bytes: int = 0  # of training text; 0 takes all of it, about 12 MB
    damaged: str = ""  # file with numbers of samples that a damaged disk would have: JSON, a list
    threads: int = 1  # one: sums come out in one order, and two runs can share two cores


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    train, val = load(max_bytes=settings.max_bytes or None)
    loader = build_loader(train, settings)
    val_batches = fixed_batches(val, settings)
    model = build_model(settings)
    optimizer = build_optimizer(model, settings)
    scheduler = build_scheduler(optimizer, settings)

    run = resilient.attach(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
    for step, (x, y) in run.steps(total=settings.steps):
        _, loss = model(x, y)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        lr = scheduler.get_last_lr()[0]
        scheduler.step()
        run.report(loss=loss, grad_norm=norm)

        if step % settings.eval_every == 0 or step == settings.steps:
            with run.phase("eval"):
                val_loss = evaluate(model, val_batches)
                run.report(val_loss=val_loss)
            print(f"step {step:5d}  loss {loss.item():.4f}  val {val_loss:.4f}  lr {lr:.2e}", flush=True)


def build_loader(train: Bytes, settings: Settings) -> "DataLoader[tuple[Tensor, Tensor]]":
    dataset: Dataset[tuple[Tensor, Tensor]] = ByteWindows(train, settings.block_size)
    if settings.damaged:
        dataset = Damaged(dataset, frozenset(json.loads(Path(settings.damaged).read_text())))
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=settings.workers,
        drop_last=True,
        persistent_workers=settings.workers > 0,
    )


def build_model(settings: Settings) -> GPT:
    config = GPTConfig(
        block_size=settings.block_size,
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
    )
    return GPT(config)


def build_optimizer(model: GPT, settings: Settings) -> AdamW:
    """AdamW that decays matrices and leaves norms alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))


def build_scheduler(optimizer: AdamW, settings: Settings) -> LambdaLR:
    """Linear warm-up, then a cosine from the peak to a tenth of it at the last step."""

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        return 0.55 + 0.45 * math.cos(math.pi * min(1.0, done))

    return LambdaLR(optimizer, factor)


def fixed_batches(val: Bytes, settings: Settings) -> Tensor:
    """The same windows at every evaluation, spread evenly over `val`: (batches, batch, block + 1), int64.

    A tensor and not a loader: it has no position to restore and draws no random numbers.
    """
    length = settings.block_size + 1
    count = settings.eval_batches * settings.batch_size
    starts = np.linspace(0, len(val) - length, count, dtype=np.int64)
    windows = val[starts[:, None] + np.arange(length)].astype(np.int64)
    return torch.from_numpy(windows).view(settings.eval_batches, settings.batch_size, length)


@torch.no_grad()
def evaluate(model: GPT, batches: Tensor) -> float:
    """Mean validation loss, nats per byte."""
    model.eval()
    losses = [model(batch[:, :-1], batch[:, 1:])[1] for batch in batches]
    model.train()
    return float(torch.stack(losses).mean())


if __name__ == "__main__":
    main()
