"""What storing once costs and saves that several ranks have alike: bytes on disk, seconds to durable and to load.

    python -m benchmarks.dedupe --folder /data/scratch --megabytes 512 --ranks 2 4

The images lie in slots as workers leave them, and a real drain writes and reads them. `replicated` is what ranks under
DistributedDataParallel have: the same, but for some state of their own; `sharded` is what they have under FSDP: nothing
alike. `growing` images are still being copied when they begin to go to disk. Times are the least of `--repeats`,
because other users of the machine only ever add to them; both settings take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from resilient.protocol.arena import Arena, Slot
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot.image import STATE, Layout, TensorSpec
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_answers import Answer, Persisted, Restored

MB = 1 << 20
LAYERS = 12
OWN = 1 << 16  # bytes that each rank has for itself under DistributedDataParallel
Kind = TypeVar("Kind", bound=Answer)


def image_of(rank: int, size: int, *, sharded: bool) -> bytes:
    """One large embedding, and layers; some state of its own."""
    elements = size // 4
    specs = [TensorSpec("model.embedding", "F32", (elements // 4,)), TensorSpec("local.seen", "I64", (OWN // 8,))]
    specs += [TensorSpec(f"model.{layer}.weight", "F32", (elements * 3 // 4 // LAYERS,)) for layer in range(LAYERS)]
    state = json.dumps({"step": 1, "objects": {"model": {}, "local": {"rank": rank}}}).encode()
    layout = Layout.plan(specs, len(state))
    data = bytearray(layout.size)
    data[: len(layout.header)] = layout.header
    for name, place in layout.tensors.items():
        seed = f"{name} {rank if sharded or name.startswith('local') else 'all'}"
        block = random.Random(seed).randbytes(min(MB, place.spec.size))
        for at in range(place.offset, place.end, len(block)):
            data[at : min(at + len(block), place.end)] = block[: place.end - at]
    place = layout.tensors[STATE]
    data[place.offset : place.end] = layout.encode_state(state) or b""
    return bytes(data)


@dataclass
class Seconds:
    """The least of each that was seen."""

    durable: float = float("inf")
    processor: float = float("inf")
    load: float = float("inf")
    bytes: int = 0


def hear(drain: Drain, kind: type[Kind]) -> Kind:
    """Wait for the drain's answer of this kind.

    :raises RuntimeError: it is another one.
    """
    while True:
        select.select([drain.connection], [], [])
        answer = drain.receive()
        if isinstance(answer, kind):
            return answer
        if answer is not None:
            raise RuntimeError(str(answer))


class Bench:
    """Slots and a drain."""

    def __init__(self, root: Path, ranks: int) -> None:
        self.paths = RunPaths.of(root, "run")
        self.paths.create()
        self.lock = RunLock(self.paths.lock, hostname())
        self.memory = Path(tempfile.mkdtemp(prefix="resilient-dedupe-", dir="/dev/shm"))
        self.arenas = [Arena.shared(self.memory, rank, 2) for rank in range(ranks)]
        self.drain = Drain(self.paths.snapshots, lock=self.lock.fileno(), log=root / "drain.log")
        self.step = 0

    def measure(self, images: list[bytes], found: Seconds, *, deduplicate: bool, growing: bool) -> None:
        self.step += 1
        slots = {rank: arena.slots[0] for rank, arena in enumerate(self.arenas)}
        for rank, slot in slots.items():
            slot.begin(self.step, len(images[rank]))
            slot.hold()
        copying = threading.Thread(target=self._copy, args=(slots, images))
        copying.start()
        if not growing:
            copying.join()
        began, busy = time.perf_counter(), self._processor()
        self.drain.persist(self.step, slots, self._details(deduplicate=deduplicate))
        done = hear(self.drain, Persisted)
        found.durable = min(found.durable, time.perf_counter() - began)
        found.processor = min(found.processor, self._processor() - busy)
        found.bytes = done.bytes
        copying.join()
        into = {rank: arena.slots[1] for rank, arena in enumerate(self.arenas)}
        began = time.perf_counter()
        self.drain.restore(self.step, into, self.step)
        hear(self.drain, Restored)
        found.load = min(found.load, time.perf_counter() - began)
        for rank, slot in into.items():
            if bytes(slot.image) != images[rank]:
                raise RuntimeError(f"the image of rank {rank} is another one")

    def _processor(self) -> float:
        """Seconds that the drain has computed so far."""
        times = psutil.Process(self.drain.pid).cpu_times()
        return float(times.user + times.system)

    def _copy(self, slots: dict[int, Slot], images: list[bytes]) -> None:
        """As the workers do, side by side, some tensors after the other."""
        longest = max(map(len, images))
        for at in range(0, longest, 16 * MB):
            for rank, slot in slots.items():
                piece = images[rank][at : at + 16 * MB]
                slot.image[at : at + len(piece)] = piece
                slot.reached(min(at + 16 * MB, len(images[rank])))
        for rank, slot in slots.items():
            slot.complete(self.arenas[rank].next_sequence(), {"metrics": {}}, hold=True)

    def _details(self, *, deduplicate: bool) -> dict[str, Any]:
        retention = asdict(RetentionSettings(last=1))
        known = {"run_id": "run", "round": 0, "parent": None, "versions": {}, "retention": retention}
        return {**known, "deduplicate": deduplicate}

    def close(self) -> None:
        self.drain.close()
        for arena in self.arenas:
            arena.close()
        shutil.rmtree(self.memory)
        self.lock.release()


@contextmanager
def bench_in(folder: Path, ranks: int) -> Iterator[Bench]:
    root = Path(tempfile.mkdtemp(prefix="dedupe-", dir=folder))
    bench = Bench(root, ranks)
    try:
        yield bench
    finally:
        bench.close()
        shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to be measured")
    parser.add_argument("--megabytes", type=int, default=512, help="of each rank's image")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    titles = "ranks", "state", "images", "deduplicated", "MB on disk", "s to durable", "of these computing", "s to load"
    print("|", " | ".join(titles), "|")
    print("|---" * len(titles) + "|")
    for ranks in options.ranks:
        for sharded in (False, True):
            images = [image_of(rank, options.megabytes * MB, sharded=sharded) for rank in range(ranks)]
            for growing in (False, True):
                found = {True: Seconds(), False: Seconds()}
                with bench_in(options.folder, ranks) as bench:
                    for _ in range(options.repeats):
                        for deduplicate, seconds in found.items():
                            bench.measure(images, seconds, deduplicate=deduplicate, growing=growing)
                for deduplicate, seconds in found.items():
                    kind, how = "sharded" if sharded else "replicated", "growing" if growing else "complete"
                    row = ranks, kind, how, "yes" if deduplicate else "no", round(seconds.bytes / MB)
                    times = (f"{each:.2f}" for each in (seconds.durable, seconds.processor, seconds.load))
                    print("|", " | ".join([*map(str, row), *times]), "|", flush=True)


if __name__ == "__main__":
    main()
