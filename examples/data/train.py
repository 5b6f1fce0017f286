"""Loaders that keep their own place: torchdata's StatefulDataLoader, over a shuffled data set, and over a stream of
Hugging Face `datasets`; and the StreamingDataLoader of MosaicML's `streaming`.

Nothing is to be adapted: `resilient.attach` takes a loader with `state_dict()` as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import resilient


@dataclass(frozen=True)
class Settings:
    """Every field can be set as `train.<name>=<value>`."""

    source: str = "torchdata"  # or datasets, or streaming
    steps: int = 60
    samples: int = 200
    batch_size: int = 8
    workers: int = 2
    seed: int = 0
    shards: str = "runs/data-shards"  # where streaming has its files


def loader(settings: Settings) -> DataLoader:
    x = torch.randn(settings.samples, 8, generator=torch.Generator().manual_seed(1))
    if settings.source == "streaming":
        return streaming_loader(settings, x)
    rows = datasets.Dataset.from_dict({"x": x.tolist(), "y": (x.sum(1) > 0).long().tolist()}).with_format("torch")
    if settings.source == "torchdata":
        return StatefulDataLoader(rows, settings.batch_size, shuffle=True, num_workers=settings.workers)
    # No buffer for shuffling: its samples are in no state, and would be lost in a resume.
    stream = rows.to_iterable_dataset(num_shards=4).map(lambda row: {**row, "x": row["x"] * 2})
    return StatefulDataLoader(stream, settings.batch_size, num_workers=settings.workers)


def streaming_loader(settings: Settings, x: torch.Tensor) -> DataLoader:
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: PLC0415  not everybody has it

    if not Path(settings.shards, "index.json").exists():
        with MDSWriter(out=settings.shards, columns={"x": "ndarray:float32:8", "y": "int"}) as writer:
            for row in x:
                writer.write({"x": row.numpy(), "y": int(row.sum() > 0)})
    rows = StreamingDataset(local=settings.shards, shuffle=True, shuffle_seed=1, batch_size=settings.batch_size)
    return StreamingDataLoader(rows, batch_size=settings.batch_size, num_workers=settings.workers)


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
