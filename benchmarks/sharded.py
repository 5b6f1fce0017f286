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
CONTESTANTS = (LIMIT, OURS, BLOCKING, SAVE, ASYNC)
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
        self.step += 1
        began = time.perf_counter()
        taken = ranks.ask_each("capture", step=self.step, overlapped=overlapped)
        slots = {rank: ranks.arenas[rank].slots[0] for rank in range(len(taken))}
        for rank, one in enumerate(taken):
            arena = ranks.arenas[rank] = Arena.shared(ranks.memory, rank, int(one["slot"]) + 1)
            slots[rank] = arena.slots[int(one["slot"])]
        retention = asdict(RetentionSettings(last=1))
        details = {"run_id": "run", "round": 0, "parent": None, "versions": {}, "retention": retention}
        self.drain.persist(self.step, slots, {**details, "deduplicate": False})
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

    def close(self) -> None:
        self.drain.close()
        self._lock.release()


def run(options: argparse.Namespace, folder: Path) -> Found:
    """Seconds by kind of measurement and contestant."""
    found: Found = {}
    layers = -(-int(options.gigabytes * 1e9) // BYTES_PER_LAYER)

    def note(kind: str, name: str, seconds: float) -> None:
        found.setdefault(kind, {}).setdefault(name, []).append(seconds)

    for count in options.ranks:
        bench = Bench(Path(tempfile.mkdtemp(dir=folder)))
        with ranks_of(count, layers, folder) as ranks:
            print(f"{count} ranks, {ranks.size / 1e9:.2f} GB", flush=True)
            for number in range(options.rounds + 1):
                turn = number % len(CONTESTANTS)
                for name in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
                    seconds = bench.measure(ranks, name)
                    if number:  # the first round touches the memory
                        for what, value in seconds.items():
                            note(f"{count} ranks, {what}", name, value)
        for fewer in options.fewer if count == max(options.ranks) else ():
            with ranks_of(fewer, layers, folder) as ranks:
                for _ in range(options.rounds):
                    ours = ranks.ask("reshard", snapshot=bench.paths.snapshot(bench.step))["load"]
                    note(f"{count} → {fewer} ranks", OURS, ours)
                    note(f"{count} → {fewer} ranks", SAVE, ranks.ask("dcp_load", path=bench.folder / "dcp")["load"])
        bench.close()
    return found


def report(found: Found) -> Iterator[str]:
    for kind, by_name in found.items():
        yield kind
        ours = statistics.median(by_name[OURS])
        for name, seconds in by_name.items():
            median = statistics.median(seconds)
            spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
            yield f"  {name}: {median:.3f} s ({spread}), {median / ours:.2f} of resilient's"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: the system's temporary one)")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of all ranks together (default: %(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="(default: 2 4)")
    parser.add_argument("--fewer", type=int, nargs="*", default=[2, 1], help="to reshard to (default: 2 1)")
    parser.add_argument("--rounds", type=int, default=3, help="that count (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args(arguments)
    body: dict[str, Any] = {"machine": machine()}
    print("; ".join(f"{name}: {value}" for name, value in body["machine"].items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="sharded-", dir=options.folder) as folder:
        body["seconds"] = run(options, Path(folder))
    print("\n".join(report(body["seconds"])))
    if options.json is not None:
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
