"""Upload: how a committed snapshot becomes one in a bucket, whatever cuts it short.

Images first, in parts; then their sizes are compared; the manifest last, which makes them a snapshot. The name holds
the snapshot's identity, so nothing is ever replaced. An upload that is begun again finds what lies there already.
"""

from __future__ import annotations

import mmap
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.errors import RemoteUnavailable
from resilient.snapshot import manifest as manifests
from resilient.snapshot.bucket import Bucket, Upload, part_sizes
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.remote import MARK, remote_name

_STREAMS = 4


class Pace:
    """Keeps an average of ``bytes_per_second``; 0 is no limit."""

    def __init__(
        self,
        bytes_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes may go."""
        if not self._rate:
            return
        now = self._clock()
        begins = max(self._free_at, now)
        self._free_at = begins + size / self._rate
        if begins > now:
            self._sleep(begins - now)


@dataclass
class Sent:
    """What an upload has done: bytes sent, and bytes that an earlier one had sent already."""

    manifest: Manifest
    sent: int = 0
    found: int = 0
    new: bool = field(default=True)


def upload(bucket: Bucket, snapshot: Path, pace: Pace | None = None) -> Sent:
    """Copy a committed snapshot into the bucket; it is one there when this returns.

    Every chunk is verified on its way, so a damaged copy is never uploaded.

    :raises SnapshotCorrupt: the local copy fails verification.
    :raises RemoteUnavailable: the bucket cannot be reached or refuses.
    """
    copy, pace = LocalCopy(snapshot), pace or Pace(0)
    name = remote_name(copy.manifest.step, copy.manifest.identity)
    marker, encoded = f"{name}/{manifests.NAME}", (snapshot / manifests.NAME).read_bytes()
    there = bucket.sizes(f"{name}/")
    result = Sent(copy.manifest)
    if f"{name}/{MARK}" in there:
        raise RemoteUnavailable(f"{name} has failed verification there, and is kept as it is", transient=False)
    if marker in there and not _missing(copy.manifest, name, there):
        result.found, result.new = copy.manifest.size, False
        return result
    for file in copy.manifest.files:
        if there.get(f"{name}/{file.name}") == file.checksum.size:
            result.found += file.checksum.size
        else:
            _send_image(bucket, f"{name}/{file.name}", copy, file, pace=pace, result=result)
    missing = _missing(copy.manifest, name, bucket.sizes(f"{name}/"))
    if missing:
        raise RemoteUnavailable(f"{name}: {', '.join(missing)} did not arrive whole", "the upload will begin again")
    bucket.put(marker, encoded)
    return result


def _missing(manifest: Manifest, name: str, sizes: Mapping[str, int]) -> Collection[str]:
    return [file.name for file in manifest.files if sizes.get(f"{name}/{file.name}") != file.checksum.size]


def _send_image(bucket: Bucket, key: str, copy: Copy, file: ImageFile, *, pace: Pace, result: Sent) -> None:
    sizes = part_sizes(file.checksum)
    if len(sizes) <= 1:  # one request
        buffer = memoryview(mmap.mmap(-1, max(1, file.checksum.size)))[: file.checksum.size]
        if sizes:
            copy.read_chunk(file, 0, buffer)
        pace.spend(len(buffer))
        bucket.put(key, buffer)
        result.sent += len(buffer)
        return
    on_its_way = bucket.begin(key, file.checksum)
    present = set(on_its_way.present)
    result.found += sum(sizes[number] for number in present)
    missing = [number for number in range(len(sizes)) if number not in present]
    _send_parts(on_its_way, copy, file, missing, pace=pace, result=result)
    on_its_way.finish()


def _send_parts(
    on_its_way: Upload, copy: Copy, file: ImageFile, missing: Collection[int], *, pace: Pace, result: Sent
) -> None:
    """Read and verify one part after the other, while others are being sent."""
    streams = 1 if on_its_way.ordered else min(_STREAMS, max(1, len(missing)))
    sizes = part_sizes(file.checksum)
    free: queue.Queue[memoryview] = queue.Queue()
    for _ in range(streams + 1):
        free.put(memoryview(mmap.mmap(-1, CHUNK)))

    failed, sent = threading.Event(), list[int]()

    def send(number: int, buffer: memoryview) -> None:
        try:
            if not failed.is_set():  # after a part that is missing, none may follow where they have an order
                pace.spend(sizes[number])
                on_its_way.send(number, buffer[: sizes[number]])
                sent.append(sizes[number])
        except BaseException:
            failed.set()
            raise
        finally:
            free.put(buffer)

    sends: list[Future[None]] = []
    try:
        with ThreadPoolExecutor(streams, "resilient-upload") as pool:
            try:
                for number in missing:
                    buffer = free.get()
                    for done in sends:
                        if done.done():
                            done.result()
                    copy.read_chunk(file, number, buffer[: sizes[number]])
                    sends.append(pool.submit(send, number, buffer))
                for done in sends:
                    done.result()
            except BaseException:
                failed.set()
                raise
    finally:
        result.sent += sum(sent)
