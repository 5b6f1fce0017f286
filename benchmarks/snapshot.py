"""What a snapshot costs: the stall of the training loop, the time until it is durable, the time to load it.

    python -m benchmarks.snapshot --folder /path/on/the/disk/to/measure --json snapshot.json

All contestants save the same state, a small GPT's parameters with AdamW's state, in one process and one after the
other, and the rounds are interleaved. The physical limits are measured in the same rounds: a plain copy of the same
bytes into warm memory, and a raw O_DIRECT write and read of the same bytes. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.distributed import checkpoint

from resilient.protocol.arena import Arena, Slot
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit, retire
from resilient.snapshot.storage import Storage
from resilient.worker.capture import Capture, flatten_objects, restore
from resilient.worker.overlap import Copier
from resilient.worker.rng import GlobalRandomState

CHUNK = 64 << 20
dcp: Any = checkpoint  # its stubs export only a part of what it documents


@dataclass
class State:
    """A model that has taken a step, so that its optimizer has state."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def build(cls, megabytes: int, tensors: int) -> State:
        """About ``megabytes`` in ``tensors`` large tensors: parameters, first and second moments."""
        parameters = tensors // 3
        count = (megabytes << 20) // 12 // parameters
        model = nn.ParameterList([nn.Parameter(torch.randn(count)) for _ in range(parameters)])
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        return cls(model, optimizer)

    def tree(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> list[torch.Tensor]:
        state = self.optimizer.state.values()
        return [*self.model.parameters(), *(value for item in state for value in item.values())]

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())


@dataclass
class Figures:
    """Seconds of every measurement, by row and column."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contestant: str, figure: str, seconds: float) -> None:
        self.values.setdefault(contestant, {}).setdefault(figure, []).append(seconds)

    def median(self, contestant: str, figure: str) -> float | None:
        found = self.values.get(contestant, {}).get(figure)
        return statistics.median(found) if found else None


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


class Bench:
    """All contestants over one state and one folder."""

    def __init__(self, state: State, folder: Path) -> None:
        self.state = state
        self.folder = folder
        self.figures = Figures()
        self.arena = Arena.private(3)
        objects = {"model": state.model, "optimizer": state.optimizer, "rng": GlobalRandomState()}
        self.objects = flatten_objects(objects)
        self.capture = Capture(self.objects, allow_pickle=False)
        self.copier = Copier()
        self.target = [torch.empty_like(tensor) for tensor in state.tensors()]
        self.step = 0
        self.storage = Storage()

    def round(self) -> None:
        """Everything once."""
        self.copy_floor()
        slot = self.overlapped()
        slot = self.blocking()
        self.raw_disk(slot)
        self.durable(slot)
        self.load_resilient()
        self.torch_save()
        self.dcp_save()
        self.dcp_async()

    def copy_floor(self) -> None:
        sources = [tensor.detach() for tensor in self.state.tensors()]
        seconds, _ = timed(lambda: torch._foreach_copy_(self.target, sources))
        self.figures.add("memcpy", "stall", seconds)

    def overlapped(self) -> Slot:
        slot = self.next_slot()
        start = time.perf_counter()
        self.capture.write_overlapped(slot, self.step, self.copier, lambda _: self.complete(slot))
        self.figures.add("resilient, overlapped", "stall", time.perf_counter() - start)
        self.copier.wait()
        self.figures.add("resilient, overlapped", "copied", time.perf_counter() - start)
        return slot

    def blocking(self) -> Slot:
        slot = self.next_slot()
        seconds, _ = timed(lambda: self.capture.write(slot, self.step))
        self.complete(slot)
        self.figures.add("resilient, not overlapped", "stall", seconds)
        return slot

    def next_slot(self) -> Slot:
        self.step += 1
        slot = self.arena.next_free()
        if slot is None:
            raise RuntimeError("no slot is free: the benchmark holds none, so this is a bug in it")
        return slot

    def complete(self, slot: Slot) -> None:
        slot.complete(self.arena.next_sequence(), {}, hold=False)

    def raw_disk(self, slot: Slot) -> None:
        """The same bytes, written and read with nothing around it."""
        path, image = self.folder / "raw", slot.image
        path.unlink(missing_ok=True)
        seconds, _ = timed(lambda: write_raw(path, image))
        self.figures.add("raw O_DIRECT", "durable", seconds)
        into = memoryview(mmap.mmap(-1, len(image)))
        into[:] = image  # warm: first touch is not what is measured
        seconds, _ = timed(lambda: read_raw(path, into))
        self.figures.add("raw O_DIRECT", "load", seconds)
        path.unlink()

    def durable(self, slot: Slot) -> None:
        draft = Draft(run_id="benchmark", step=self.step, round=0, images={0: slot.image})
        seconds, _ = timed(lambda: commit(self.storage, self.folder, draft))
        self.figures.add("resilient, not overlapped", "durable", seconds)

    def load_resilient(self) -> None:
        """Verified from disk into a slot, then from the slot into the model and its optimizer."""
        snapshot = self.folder / f"step-{self.step:09d}"
        slot = self.next_slot()
        file = catalog.read_manifest(snapshot).files[0]
        slot.begin(self.step, file.checksum.size)
        drop_caches(snapshot / file.name)
        seconds, _ = timed(lambda: catalog.read_image(snapshot, file, slot.image))
        self.figures.add("resilient, not overlapped", "load", seconds)
        seconds, _ = timed(lambda: restore(slot.image, self.objects, allow_pickle=False))
        self.figures.add("resilient, not overlapped", "load from memory", seconds)
        slot.void()
        retire(self.storage, snapshot)

    def torch_save(self) -> None:
        path = self.folder / "state.pt"
        seconds, _ = timed(lambda: torch.save(self.state.tree(), path))
        self.figures.add("torch.save", "stall", seconds)
        synced, _ = timed(lambda: sync(path))
        self.figures.add("torch.save", "durable", seconds + synced)
        drop_caches(path)
        seconds, _ = timed(lambda: torch.load(path, weights_only=True))
        self.figures.add("torch.save", "load", seconds)
        path.unlink()

    def dcp_save(self) -> None:
        path = self.folder / "dcp"
        seconds, _ = timed(lambda: dcp.save(self.state.tree(), checkpoint_id=path))
        self.figures.add("dcp.save", "stall", seconds)
        synced, _ = timed(lambda: sync_all(path))
        self.figures.add("dcp.save", "durable", seconds + synced)
        for file in path.iterdir():
            drop_caches(file)
        tree = self.state.tree()
        seconds, _ = timed(lambda: dcp.load(tree, checkpoint_id=path))
        self.figures.add("dcp.save", "load", seconds)
        shutil.rmtree(path)

    def dcp_async(self) -> None:
        path = self.folder / "dcp-async"
        start = time.perf_counter()
        future = dcp.async_save(self.state.tree(), checkpoint_id=path)
        self.figures.add("dcp.async_save", "stall", time.perf_counter() - start)
        getattr(future, "result", lambda: None)()
        sync_all(path)
        self.figures.add("dcp.async_save", "durable", time.perf_counter() - start)
        shutil.rmtree(path)


def write_raw(path: Path, data: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    for at in range(0, len(data), CHUNK):
        os.write(descriptor, data[at : at + CHUNK])
    os.fsync(descriptor)
    os.close(descriptor)


def read_raw(path: Path, into: memoryview) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for at in range(0, len(into), CHUNK):
        os.readv(descriptor, [into[at : at + CHUNK]])
    os.close(descriptor)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def sync_all(folder: Path) -> None:
    for path in folder.iterdir():
        sync(path)


def drop_caches(path: Path) -> None:
    """Take a file out of the page cache, so that reading it reads the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


LIMITS = {"stall": "memcpy", "durable": "raw O_DIRECT", "load": "raw O_DIRECT", "load from memory": "memcpy"}


def report(figures: Figures, title: str) -> Table:
    """Medians in milliseconds, each with its ratio to the physical limit."""
    table = Table("median of all rounds", *LIMITS, title=title, title_justify="left")
    for contestant in figures.values:
        cells = []
        for figure, limit in LIMITS.items():
            value = figures.median(contestant, figure)
            floor = figures.median(limit, "stall" if limit == "memcpy" else figure)
            ratio = f" ({value / floor:.2f}×)" if value is not None and floor and contestant != limit else ""
            cells.append("" if value is None else f"{value * 1e3:.1f} ms{ratio}")
        table.add_row(contestant, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-snapshot"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=1400)
    parser.add_argument("--tensors", type=int, default=768)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    state = State.build(options.megabytes, options.tensors)
    bench = Bench(state, options.folder)
    bench.round()
    bench.figures = Figures()  # the first round pays for first touches and imports, everybody's alike
    for _ in range(options.rounds):
        bench.round()
    bench.copier.close()
    shutil.rmtree(options.folder)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    title = f"{state.size / 1e9:.2f} GB in {len(state.tensors())} tensors, {options.rounds} rounds, {machine}"
    Console(width=140).print(report(bench.figures, title))
    if options.json:
        options.json.write_text(json.dumps({"title": title, "seconds": bench.figures.values}, indent=1))


if __name__ == "__main__":
    main()
