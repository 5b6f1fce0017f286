"""Print which samples some steps of a run of `train.py` draw: the order depends on the seed and on nothing else.

    python examples/bytelm/order.py FIRST LAST BATCH_SIZE SEED

A JSON list of sample numbers goes to the standard output; `train.damaged` takes a file of it.
"""

import json
import os
import sys
import tempfile

import torch
from corpus import ByteWindows, load
from torch.utils.data import DataLoader, Dataset
from train import Settings

import resilient


class Numbers(Dataset[int]):
    """As many items as there are samples, each its own number."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def samples(first: int, last: int, batch_size: int, seed: int) -> list[int]:
    """The samples of steps `first` to `last`, in the order in which they are drawn."""
    torch.manual_seed(seed)
    train, _ = load()
    numbers = Numbers(len(ByteWindows(train, Settings.block_size)))
    loader = DataLoader(numbers, batch_size=batch_size, shuffle=True, drop_last=True)
    run = resilient.attach(data=loader, run_id="order", snapshot=resilient.SnapshotSettings(every_steps=last + 1))
    drawn: list[int] = []
    for step, batch in run.steps(total=last):
        if step >= first:
            drawn += batch.tolist()
    return drawn


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as nowhere:  # what it attaches to is a run like any other
        os.environ["RESILIENT_RUNS"] = nowhere
        print(json.dumps(samples(*map(int, sys.argv[1:]))))
