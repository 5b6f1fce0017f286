"""Loaders that keep their own place: torchdata's StatefulDataLoader, over a shuffled data set, and over a stream of
Hugging Face `datasets`.

Nothing is to be adapted: `resilient.attach` takes a loader with `state_dict()` as it is.
"""

from dataclasses import dataclass

import datasets
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

import resilient


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    source: str = "torchdata"  # or datasets
    steps: int = 60
    samples: int = 200
    batch_size: int = 8
    workers: int = 2
    seed: int = 0


def loader(settings: Settings) -> StatefulDataLoader:
    x = torch.randn(settings.samples, 8, generator=torch.Generator().manual_seed(1))
    rows = datasets.Dataset.from_dict({"x": x.tolist(), "y": (x.sum(1) > 0).long().tolist()}).with_format("torch")
    if settings.source == "torchdata":
        return StatefulDataLoader(rows, settings.batch_size, shuffle=True, num_workers=settings.workers)
    # No buffer for shuffling: its samples are in no state, and would be lost in a resume.
    stream = rows.to_iterable_dataset(num_shards=4).map(lambda row: {**row, "x": row["x"] * 2})
    return StatefulDataLoader(stream, settings.batch_size, num_workers=settings.workers)


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    run = resilient.attach(model=model, optimizer=optimizer, data=loader(settings))
    for _, batch in run.steps(total=settings.steps):
        loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss)


if __name__ == "__main__":
    main()
