"""Upload: how a committed snapshot becomes one in a bucket, whatever cuts it short.

Images first, in parts; then their sizes are compared; the manifest last, which makes them a snapshot. The name holds
the snapshot's identity, so nothing is ever replaced. An upload that is begun again finds what lies there already.
"""

from __future__ import annotations

import mmap
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.errors import RemoteUnavailable
from resilient.snapshot import manifest as manifests
from resilient.snapshot.bucket import Bucket, Upload, part_sizes
from resilient.snapshot.copies import Copy, LocalCopy, read_chunk
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.remote import MARK, remote_name

_STREAMS = 3  # each holds a part, and the service's own client a copy of it


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
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes may go."""
        if not self._rate:
            return
        with self._lock:
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
            read_chunk(copy, file, 0, buffer)
        pace.spend(len(buffer))
        bucket.put(key, buffer)
        result.sent += len(buffer)
        return
    on_its_way = bucket.begin(key, file.checksum)
    present = set(on_its_way.present)
    result.found += sum(sizes[number] for number in present)
    sender = _Sender(on_its_way, copy, file, pace)
    try:
        sender.send_all([number for number in range(len(sizes)) if number not in present])
    finally:
        result.sent += sum(sender.sent)
    on_its_way.finish()


class _Sender:
    """Sends parts of one image: one is read and verified while others are on their way.

    :ivar sent: bytes of each part that has arrived.
    """

    def __init__(self, on_its_way: Upload, copy: Copy, file: ImageFile, pace: Pace) -> None:
        self.sent: list[int] = []
        self._on_its_way = on_its_way
        self._copy = copy
        self._file = file
        self._pace = pace
        self._sizes = part_sizes(file.checksum)
        self._failed = threading.Event()
        self._free: queue.Queue[memoryview] = queue.Queue()

    def send_all(self, numbers: Sequence[int]) -> None:
        streams = 1 if self._on_its_way.ordered else min(_STREAMS, max(1, len(numbers)))
        for _ in range(max(streams, 2)):  # where only one may be sent, the next is read meanwhile
            self._free.put(memoryview(mmap.mmap(-1, CHUNK)))
        with ThreadPoolExecutor(streams, "resilient-upload") as pool:
            try:
                sends = [pool.submit(self._send, number, part) for number, part in self._parts(numbers)]
                for sent in sends:
                    sent.result()
            except BaseException:
                self._failed.set()
                raise

    def _parts(self, numbers: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
        """Each part, verified, in memory that is given back when it has been sent; no more once one has failed."""
        for number in numbers:
            buffer = self._free.get()
            if self._failed.is_set():
                return
            part = buffer[: self._sizes[number]]
            read_chunk(self._copy, self._file, number, part)
            yield number, part

    def _send(self, number: int, part: memoryview) -> None:
        try:
            if not self._failed.is_set():  # after a part that is missing, none may follow where they have an order
                self._pace.spend(len(part))
                self._on_its_way.send(number, part)
                self.sent.append(len(part))
        except BaseException:
            self._failed.set()
            raise
        finally:
            self._free.put(memoryview(part.obj))
