"""A real S3 server on loopback, snapshots for it, and buckets that fail at a chosen operation."""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot.bucket import Bucket, Upload
from resilient.snapshot.bucket_fsspec import _open
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.hashing import Checksum
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.storage import Storage

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(port: int = 0) -> Iterator[str]:
    """The endpoint of an S3 server on a free port of loopback, or on ``port``.

    Credentials for it are in the environment meanwhile.
    """
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    server.start()
    try:
        host, chosen = server.get_host_and_port()
        yield f"http://{host}:{chosen}"
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def make_s3(endpoint: str) -> RemoteSettings:
    """A bucket of its own on the server."""
    import s3fs

    name = f"test-{uuid.uuid4().hex[:12]}"
    options = {"endpoint_url": endpoint}
    s3fs.S3FileSystem(skip_instance_cache=True, **options).mkdir(name)
    return RemoteSettings(url=f"s3://{name}/some/prefix", options=options, attempts=2)


def bare(settings: RemoteSettings, run_id: str = "demo") -> Bucket:
    """The bucket without anything around it that tries again."""
    return _open(settings, run_id)


def make_snapshot(
    directory: Path,
    step: int,
    *images: bytes,
    metrics: Mapping[str, float] | None = None,
    round_number: int = 0,
    divergence: Mapping[str, Any] | None = None,
) -> Manifest:
    """A committed snapshot with one image for each rank."""
    directory.mkdir(parents=True, exist_ok=True)
    ranks = {rank: memoryview(image) for rank, image in enumerate(images or (os.urandom(3000),))}
    draft = Draft("demo", step, round_number, ranks, metrics=metrics or {}, divergence=divergence or {})
    return commit(Storage(), directory, draft)


class Cut(Exception):  # noqa: N818  named by condition
    """The process was killed here: nothing after this happens, and nothing tries again."""


class When(str, Enum):
    BEFORE = "before"  # it is not done
    AFTER = "after"  # it is done, and nobody hears of it


class FaultyBucket:
    """Fails at its operation number ``at``, and counts what is done; ``done`` says how often each operation was."""

    def __init__(
        self, bucket: Bucket, at: int | None = None, when: When = When.BEFORE, error: type[Exception] = Cut
    ) -> None:
        self._bucket = bucket
        self._at = at
        self._when = when
        self._error = error
        self.operations = 0
        self.done: Counter[str] = Counter()

    def _do(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        number, self.operations = self.operations, self.operations + 1
        dead = self._error is Cut and self._at is not None and number > self._at
        if dead or (number == self._at and self._when is When.BEFORE):
            raise self._error(f"{name}, operation {number}")
        result = function(*arguments)
        self.done[name] += 1
        if number == self._at:
            raise self._error(f"{name}, operation {number}")
        return result

    def sizes(self, prefix: str = "") -> Mapping[str, int]:
        return self._do("sizes", self._bucket.sizes, prefix)  # type: ignore[no-any-return]

    def read(self, key: str, start: int, into: memoryview) -> None:
        self._do("read", self._bucket.read, key, start, into)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._do("put", self._bucket.put, key, data)

    def begin(self, key: str, checksum: Checksum) -> Upload:
        return FaultyUpload(self, self._do("begin", self._bucket.begin, key, checksum))

    def unfinished(self) -> Collection[str]:
        return self._do("unfinished", self._bucket.unfinished)  # type: ignore[no-any-return]

    def abandon(self, key: str) -> None:
        self._do("abandon", self._bucket.abandon, key)

    def delete(self, keys: Sequence[str]) -> None:
        """One after the other, so that it can fail between any two."""
        for key in keys:
            self._do("delete", self._bucket.delete, [key])


class FaultyUpload:
    def __init__(self, bucket: FaultyBucket, upload: Upload) -> None:
        self._bucket = bucket
        self._upload = upload
        self.present = upload.present
        self.ordered = True  # one at a time, so that operations have numbers

    def send(self, number: int, data: memoryview) -> None:
        self._bucket._do("send", self._upload.send, number, data)

    def finish(self) -> None:
        self._bucket._do("finish", self._upload.finish)
