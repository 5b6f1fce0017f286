"""Any other fsspec filesystem as a bucket, and which of the buckets a URL means.

What fsspec offers on every filesystem is whole objects: an upload that was cut short begins that file again, the files
before it stay. Few of them promise that an object appears whole, so its size is compared before the manifest counts.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from resilient.errors import ConfigurationError
from resilient.protocol.names import validate_run_id
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot.bucket import Bucket, Patience, PatientBucket
from resilient.snapshot.bucket_directory import DirectoryBucket
from resilient.snapshot.bucket_s3 import S3Bucket
from resilient.snapshot.hashing import Checksum

# Who waits for an answer that never comes cannot try again. Retries are ours, so that they are counted once.
_S3_CONFIG = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}, "max_pool_connections": 16}


def open_bucket(settings: RemoteSettings, run_id: str) -> PatientBucket:
    """The place for the snapshots of ``run_id``, without asking the network anything.

    :raises ConfigurationError: the filesystem is not known, its package is missing, or it does not take the options.
    """
    settings.require_filesystem()
    patience = Patience(settings.attempts)
    return PatientBucket(_open(settings, validate_run_id(run_id)), settings.url, patience)


def _open(settings: RemoteSettings, run_id: str) -> Bucket:
    if settings.protocol in {"file", "local"}:
        return DirectoryBucket(Path(settings.url.split("://", 1)[-1]).absolute(), run_id)
    import fsspec  # noqa: PLC0415  slow to import, and most commands need none of it

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False, **settings.options}
    is_s3 = settings.protocol in {"s3", "s3a"}
    if is_s3:
        options["config_kwargs"] = {**_S3_CONFIG, **options.get("config_kwargs", {})}
    try:
        filesystem, path = fsspec.core.url_to_fs(settings.url, **options)
    except Exception as error:
        raise ConfigurationError(
            f"remote.url={settings.url} cannot be opened with remote.options={dict(settings.options)}: {error}",
            "see fsspec's documentation of that filesystem for its options",
        ) from error
    if not is_s3:
        return ObjectBucket(filesystem, f"{path.rstrip('/')}/{run_id}")
    filesystem.retries = 1
    bucket, _, prefix = path.partition("/")
    return S3Bucket(filesystem, bucket, f"{prefix}/{run_id}")


class ObjectBucket:
    """Objects below ``root`` on an fsspec filesystem."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def sizes(self, prefix: str = "") -> Mapping[str, int]:
        self._filesystem.invalidate_cache()
        beginning = self._filesystem._strip_protocol(self._root) + "/"  # noqa: SLF001  the name is part of its interface
        found = self._filesystem.find(self._root, detail=True)
        sizes = {name.removeprefix(beginning): int(entry["size"]) for name, entry in found.items()}
        return {key: size for key, size in sizes.items() if key.startswith(prefix)}

    def read(self, key: str, start: int, into: memoryview) -> None:
        data = self._filesystem.cat_file(self._path(key), start=start, end=start + len(into)) if into else b""
        if len(data) != len(into):
            raise EOFError(f"{key} ended early")
        into[:] = data

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._make_parent(key)
        self._filesystem.pipe_file(self._path(key), bytes(data))

    def begin(self, key: str, checksum: Checksum) -> StreamUpload:
        self._make_parent(key)
        return StreamUpload(self._filesystem, self._path(key), checksum.size)

    def unfinished(self) -> Collection[str]:
        return ()

    def abandon(self, key: str) -> None:
        self.delete([key])

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                self._filesystem.rm_file(self._path(key))
        for parent in {key.rpartition("/")[0] for key in keys} - {""}:
            # Where directories exist, an empty one would stay; where they do not, this fails or does nothing.
            with suppress(Exception):
                self._filesystem.rmdir(self._path(parent))

    def _make_parent(self, key: str) -> None:
        self._filesystem.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


class StreamUpload:
    """One object written from its beginning to its end."""

    ordered = True

    def __init__(self, filesystem: Any, path: str, size: int) -> None:
        self.present: Collection[int] = ()
        self._filesystem = filesystem
        self._path = path
        self._size = size
        self._stream = filesystem.open(path, "wb")
        self._sent = 0

    def send(self, number: int, data: memoryview) -> None:
        if number != self._sent:
            raise OSError(errno.EINVAL, "a file that is being written can only go on where it is", self._path)
        self._sent = -1  # a part that fails half-way cannot be sent again on this stream
        self._stream.write(data)
        self._sent = number + 1

    def finish(self) -> None:
        if not self._stream.closed:
            self._stream.close()
        self._filesystem.invalidate_cache()
        found = int(self._filesystem.size(self._path))
        if found != self._size:
            raise OSError(f"{self._path} has {found} bytes after the upload instead of {self._size}")
