"""Checkpoints of a model that is spread over ranks with FSDP2: resilient beside ``torch.distributed.checkpoint``.

    python -m benchmarks.sharded --folder /data/scratch --json sharded.json

All contestants save and load the same tensors of the same processes, by turns; the limits are a plain copy in memory,
and raw writes and reads of as many bytes by all ranks at once. What was loaded is compared with what was saved, always.
Definitions stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.dedupe import hear
from benchmarks.recovery_report import machine
from benchmarks.sharded_rank import BYTES_PER_LAYER, serve
from benchmarks.snapshot_disk import drop_caches
from resilient.protocol.arena import Arena
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.settings import RetentionSettings
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_answers import Persisted, Restored

LIMIT, OURS, BLOCKING = "limits", "resilient", "resilient, not overlapped"
SAVE, ASYNC = "dcp.save", "dcp.async_save"
DCP, READER = "dcp.load", "dcp.load with resilient's SnapshotReader"
CONTESTANTS = (LIMIT, OURS, BLOCKING, SAVE, ASYNC)
LOADERS = (OURS, DCP, READER, LIMIT)
_CONTEXT = multiprocessing.get_context("forkserver")
Found = dict[str, dict[str, list[float]]]


class Ranks:
    """So many processes that form a group; their memory is the drain's to read."""

    def __init__(self, ranks: int, layers: int, memory: Path, folder: Path) -> None:
        self.memory = memory
        store = Path(tempfile.mkdtemp(dir=folder)) / "store"
        pairs = [_CONTEXT.Pipe() for _ in range(ranks)]
        self._processes = [
            _CONTEXT.Process(target=serve, args=((rank, ranks), layers, memory, store, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in self._processes:
            process.start()
        for _, theirs in pairs:
            theirs.close()
        self._connections = [ours for ours, _ in pairs]
        self.size = sum(connection.recv() for connection in self._connections)
        self.arenas = [Arena.shared(memory, rank, 1) for rank in range(ranks)]

    def ask(self, operation: str, each: Sequence[dict[str, Any]] | None = None, **same: Any) -> dict[str, float]:
        """Have all do it; of each number the largest, for nothing is done before the last one has done it."""
        found = self.ask_each(operation, each, **same)
        return {name: max(one[name] for one in found) for name in found[0]}

    def ask_each(self, operation: str, each: Sequence[dict[str, Any]] | None = None, **same: Any) -> list[Any]:
        for connection, own in zip(self._connections, each or [{}] * len(self._connections), strict=True):
            connection.send((operation, {**same, **own}))
        return [connection.recv() for connection in self._connections]

    def close(self) -> None:
        for connection in self._connections:
            connection.send(None)
        for process in self._processes:
            process.join(60)
            process.kill()
        for arena in self.arenas:
            arena.close()


@contextmanager
def ranks_of(count: int, layers: int, folder: Path) -> Iterator[Ranks]:
    memory = Path(tempfile.mkdtemp(prefix="resilient-sharded-", dir="/dev/shm"))
    try:
        ranks = Ranks(count, layers, memory, folder)
        try:
            yield ranks
        finally:
            ranks.close()
    finally:
        shutil.rmtree(memory)


class Bench:
    """A run's folder and its drain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = RunPaths.of(folder, "run")
        self.paths.create()
        self._lock = RunLock(self.paths.lock, hostname())
        self.drain = Drain(self.paths.snapshots, lock=self._lock.fileno(), log=folder / "drain.log")
        self.step = 0

    def measure(self, ranks: Ranks, name: str) -> dict[str, float]:
        """One save and one load."""
        if name == LIMIT:
            return ranks.ask("limits", folder=self.folder)
        if name in (SAVE, ASYNC):
            path = self.folder / "dcp"
            shutil.rmtree(path, ignore_errors=True)
            seconds = ranks.ask("dcp_save", path=path, asynchronous=name == ASYNC)
            return {**seconds, **ranks.ask("dcp_load", path=path)}
        return self._measure_ours(ranks, overlapped=name == OURS)

    def _measure_ours(self, ranks: Ranks, *, overlapped: bool) -> dict[str, float]:
        shutil.rmtree(self.paths.snapshot(self.step), ignore_errors=True)  # as what DCP has saved before
        self.step += 1
        began = time.perf_counter()
        taken = ranks.ask_each("capture", step=self.step, overlapped=overlapped)
        slots = {rank: ranks.arenas[rank].slots[0] for rank in range(len(taken))}
        for rank, one in enumerate(taken):
            arena = ranks.arenas[rank] = Arena.shared(ranks.memory, rank, int(one["slot"]) + 1)
            slots[rank] = arena.slots[int(one["slot"])]
        retention = asdict(RetentionSettings(last=1))
        details = {"run_id": "run", "round": 0, "parent": None, "versions": {}, "retention": retention}
        self.drain.persist(self.step, slots, {**details, "deduplicate": True})
        hear(self.drain, Persisted)
        durable = time.perf_counter() - began
        drop_caches(self.paths.snapshot(self.step))
        into = {}
        for rank, slot in slots.items():
            slot.release()
            free = ranks.arenas[rank].next_free()
            if free is None:
                raise RuntimeError("no slot is free")
            into[rank] = free
        began = time.perf_counter()
        self.drain.restore(self.step, into, self.step)
        hear(self.drain, Restored)
        read = time.perf_counter() - began
        installed = ranks.ask("install", [{"index": slot.index} for slot in into.values()])
        stall = max(one["stall"] for one in taken)
        return {"stall": stall, "durable": durable, "load": read + installed["load"]}

    def load(self, ranks: Ranks, name: str) -> float:
        """Load what was saved last by any number of ranks."""
        snapshot, other = self.paths.snapshot(self.step), self.folder / "dcp"
        if name == LIMIT:
            return ranks.ask("limits", folder=self.folder)["load"]
        if name == OURS:
            return ranks.ask("reshard", snapshot=snapshot)["load"]
        here = name == READER
        return ranks.ask("dcp_load", path=snapshot if here else other, snapshot=here)["load"]

    def close(self) -> None:
        self.drain.close()
        self._lock.release()


class Measuring:
    """Goes through everything, and notes seconds by kind of measurement and contestant."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.found: Found = {}
        self._folder = folder
        self._rounds: int = options.rounds
        self._layers = -(-int(options.gigabytes * 1e9) // BYTES_PER_LAYER)

    def run(self, counts: Sequence[int], others: Sequence[tuple[int, int]]) -> Found:
        for count in counts:
            bench = Bench(Path(tempfile.mkdtemp(dir=self._folder)))
            with ranks_of(count, self._layers, self._folder) as ranks:
                print(f"{count} ranks, {ranks.size / 1e9:.2f} GB", flush=True)
                self._save_and_load(bench, ranks, count)
            for before, after in others:
                if before == count:
                    self._deal_out(bench, before, after)
            bench.close()
            shutil.rmtree(bench.folder)
        return self.found

    def _note(self, kind: str, name: str, seconds: float) -> None:
        self.found.setdefault(kind, {}).setdefault(name, []).append(seconds)

    def _save_and_load(self, bench: Bench, ranks: Ranks, count: int) -> None:
        for number in range(self._rounds + 1):
            for name in _turned(CONTESTANTS, number):
                seconds = bench.measure(ranks, name)
                if number:  # the first round touches the memory
                    for what, value in seconds.items():
                        self._note(f"{count} ranks, {what}", name, value)

    def _deal_out(self, bench: Bench, before: int, after: int) -> None:
        """Load what some ranks have saved by another number of them.

        Each contestant is the first one in processes that have just been started, as in a run that goes on with other
        ranks, and there it pays for all that is done once; that is told apart.
        """
        for turn in range(len(LOADERS)):
            with ranks_of(after, self._layers, self._folder) as ranks:
                first, *rest = _turned(LOADERS, turn)
                self._note(f"{before} → {after} ranks, the first time in a process", first, bench.load(ranks, first))
                for name in rest:
                    bench.load(ranks, name)
                for number in range(-(-self._rounds // len(LOADERS))):
                    for name in _turned(LOADERS, turn + number):
                        self._note(f"{before} → {after} ranks", name, bench.load(ranks, name))


def _turned(names: Sequence[str], number: int) -> list[str]:
    """The same in another order, so that each comes after each."""
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]


def report(found: Found) -> Iterator[str]:
    for kind, by_name in found.items():
        yield kind
        ours = statistics.median(by_name[OURS])
        for name, seconds in sorted(by_name.items()):
            median = statistics.median(seconds)
            spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
            yield f"  {name}: {median:.3f} s ({spread}), {median / ours:.2f} of resilient's"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: the system's temporary one)")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of all ranks together (default: %(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="(default: 2 4)")
    parser.add_argument(
        "--others", nargs="*", default=["4:2", "4:1", "2:4"], help="loaded by other ranks (default: 4:2 4:1 2:4)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    body: dict[str, Any] = {"machine": machine()}
    print("; ".join(f"{name}: {value}" for name, value in body["machine"].items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="sharded-", dir=options.folder) as folder:
        others = [(int(before), int(after)) for before, after in (pair.split(":") for pair in options.others)]
        body["seconds"] = Measuring(options, Path(folder)).run(options.ranks, others)
    print("\n".join(report(body["seconds"])))
    if options.json is not None:
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
