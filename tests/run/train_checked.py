"""A small model whose every step can be compared with the same step done again; and what spoils that, on request."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from train_diverging import wait_for_snapshot  # type: ignore[import-not-found]  # beside this script
from uncompiled import put_the_compiler_off  # type: ignore[import-not-found]  # beside this script

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 40
    poison_at: int = 0  # a batch of this step has values that blow the loss up
    entropy: str = ""  # "data": batches have noise that nobody seeds; "kernel": the model has
    entropy_from: int = 1  # the first step that has it
    lineage: str = ""  # the run's lineage.json: wait there until the last snapshot is known to the supervisor


class Samples(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(200, 8, generator=generator)
        self.y = torch.randn(200, 1, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + torch.randn(8) * 0.01, self.y[index]


class Unseeded(Samples):
    """What a data set does that draws from the system."""

    noisy = False

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + entropy() * self.noisy, y


def entropy() -> float:
    return int.from_bytes(os.urandom(4), "little") / 2**32


def main() -> None:
    put_the_compiler_off()
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Dropout(0.25), torch.nn.Linear(8, 32), torch.nn.LeakyReLU(0.1), torch.nn.Linear(32, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = Unseeded()
    run = resilient.attach(model=model, optimizer=optimizer, data=DataLoader(data, batch_size=4, shuffle=True))
    for step, (x, y) in run.steps(total=settings.steps):
        if settings.lineage and "RESILIENT_PLACE" not in os.environ and step % 10 == 5 and step > 10:
            wait_for_snapshot(Path(settings.lineage), step - 5)
        data.noisy = settings.entropy == "data" and step + 1 >= settings.entropy_from
        target = y * 1e6 if step == settings.poison_at else y
        out = model(x)
        if settings.entropy == "kernel" and step >= settings.entropy_from:
            # an operation that torch knows not to be deterministic, and here certainly is not
            out = out + torch.zeros(4).put_(torch.tensor([0]), torch.tensor([entropy()]))[0]
        loss = (out - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        run.report(loss=loss, grad_norm=norm, seconds=time.monotonic())
        time.sleep(0.01)
    with Path("after.txt").open("a") as stream:  # as a script writes its model when it is done
        stream.write(f"{run.step}\n")


if __name__ == "__main__":
    main()
