"""A small classifier on Accelerate: `prepare`, `accumulate`, clipping, a schedule.

Only the lines that say `resilient` or `run.` are not what any other script with Accelerate would have.
"""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resilient
from resilient.integrations.accelerate import attach


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    steps: int = 100  # batches
    samples: int = 200
    batch_size: int = 8
    accumulate: int = 3
    workers: int = 0
    seed: int = 0
    precision: str = "no"  # or bf16; fp16 wants a GPU


class Average:
    """Of the weights, as what is given to `register_for_checkpointing`."""

    def __init__(self, model: nn.Module) -> None:
        self.values = [parameter.detach().clone() for parameter in model.parameters()]

    def update(self, model: nn.Module) -> None:
        for value, parameter in zip(self.values, model.parameters(), strict=True):
            value.lerp_(parameter.detach(), 0.01)

    def state_dict(self) -> dict:
        return {"values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.values = state["values"]


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    set_seed(settings.seed)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=settings.accumulate,
        mixed_precision=settings.precision,
    )
    x = torch.randn(settings.samples, 8)
    data = TensorDataset(x, (x.sum(1) > 0).long())
    model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
    loader = DataLoader(data, settings.batch_size, shuffle=True, num_workers=settings.workers)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
    average = Average(model)
    accelerator.register_for_checkpointing(average)

    run = attach(accelerator, loader)
    for _, (inputs, labels) in run.steps(total=settings.steps):
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            average.update(model)
        run.report(loss=loss)


if __name__ == "__main__":
    main()
