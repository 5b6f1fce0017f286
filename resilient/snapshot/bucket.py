"""A bucket: what the remote tier needs of a place, one method per step that a failure can separate from the next.

Objects appear whole or not at all, and are never written a second time under the same key with other bytes. Large ones
are sent in parts, and an upload that was cut short is taken up where it stopped, by whichever process comes next.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tenacity

from resilient.errors import RemoteUnavailable, ResilientError
from resilient.snapshot.hashing import CHUNK, Checksum


class Upload(Protocol):
    """An object on its way. Part *n* holds the bytes of chunk *n*.

    ``present`` are the parts that lie there already. ``ordered`` says that the others must be sent in ascending order,
    one at a time.
    """

    @property
    def present(self) -> Collection[int]: ...

    @property
    def ordered(self) -> bool: ...

    def send(self, number: int, data: memoryview) -> None: ...

    def finish(self) -> None:
        """Make the parts an object; all must be present. Done once more, it does nothing."""
        ...


class Bucket(Protocol):
    """A place for objects under keys such as ``step-…/manifest.json``."""

    def sizes(self, prefix: str = "") -> Mapping[str, int]:
        """Bytes of every object whose key begins with ``prefix``."""
        ...

    def read(self, key: str, start: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``start`` on.

        :raises FileNotFoundError: there is no such object.
        :raises EOFError: the object ends before.
        """
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """A small object, whole and durable when this returns."""
        ...

    def begin(self, key: str, checksum: Checksum) -> Upload:
        """A large object in parts; takes up an earlier upload of the same key."""
        ...

    def unfinished(self) -> Collection[str]:
        """Keys of uploads that were begun and not finished."""
        ...

    def abandon(self, key: str) -> None:
        """Remove what an unfinished upload has left."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        ...


def part_sizes(checksum: Checksum) -> list[int]:
    """Bytes of each part of an object."""
    return [min(CHUNK, checksum.size - at) for at in range(0, checksum.size, CHUNK)]


# --- which errors pass

_PERMANENT: tuple[type[Exception], ...] = (
    PermissionError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
    ImportError,
    TypeError,
    ValueError,
    EOFError,
    ResilientError,
)
_PERMANENT_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOSYS, errno.EINVAL, errno.EPERM})
_PERMANENT_NAMES = frozenset(  # of botocore and its like, which are no OSErrors
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "ParamValidationError",
        "InvalidConfigError",
        "UnauthorizedSSOTokenError",
        "TokenRetrievalError",
        "NoRegionError",
    }
)


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later. What is not known to be permanent is taken to pass."""
    if not isinstance(error, Exception) or isinstance(error, _PERMANENT):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names & _PERMANENT_NAMES and getattr(error, "errno", None) not in _PERMANENT_ERRNO


def unavailable(error: Exception, place: str, attempts: int) -> RemoteUnavailable:
    """``error`` in words that say whether waiting would help."""
    text = " ".join(str(error).split()) or type(error).__name__
    if is_transient(error):
        return RemoteUnavailable(
            f"{place} cannot be used: {text} (tried {attempts} times)", "check the network and the service"
        )
    remedy = "check that it exists, and who may use it; credentials come from the environment or a profile"
    return RemoteUnavailable(f"{place} refuses: {type(error).__name__}: {text}", remedy, transient=False)


@dataclass(frozen=True)
class Patience:
    """How often and with what waits an operation is tried again. A test passes a ``sleep`` of its own.

    :param attempts: tries in all.
    """

    attempts: int = 6
    sleep: Any = tenacity.nap.sleep

    def __call__(self, function: Any, *arguments: Any) -> Any:
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=20),
            stop=tenacity.stop_after_attempt(self.attempts),
            sleep=self.sleep,
            reraise=True,
        )
        return retry(function, *arguments)


class PatientBucket:
    """A bucket whose operations are tried again while their errors may pass.

    :raises RemoteUnavailable: from every method, when trying again did not help or would not. What a read says of the
        object itself is passed on as it is.
    """

    def __init__(self, bucket: Bucket, place: str, patience: Patience) -> None:
        self._bucket = bucket
        self._place = place
        self._patience = patience

    def _try(self, function: Any, *arguments: Any) -> Any:
        try:
            return self._patience(function, *arguments)
        except Exception as error:
            raise unavailable(error, self._place, self._patience.attempts) from error

    def sizes(self, prefix: str = "") -> Mapping[str, int]:
        found: Mapping[str, int] = self._try(self._bucket.sizes, prefix)
        return found

    def read(self, key: str, start: int, into: memoryview) -> None:
        try:
            self._patience(self._bucket.read, key, start, into)
        except (EOFError, FileNotFoundError):
            raise
        except Exception as error:
            raise unavailable(error, self._place, self._patience.attempts) from error

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._try(self._bucket.put, key, data)

    def begin(self, key: str, checksum: Checksum) -> Upload:
        return _PatientUpload(self._try(self._bucket.begin, key, checksum), self._try)

    def unfinished(self) -> Collection[str]:
        found: Collection[str] = self._try(self._bucket.unfinished)
        return found

    def abandon(self, key: str) -> None:
        self._try(self._bucket.abandon, key)

    def delete(self, keys: Sequence[str]) -> None:
        self._try(self._bucket.delete, keys)


class _PatientUpload:
    def __init__(self, upload: Upload, attempt: Any) -> None:
        self._upload = upload
        self._try = attempt
        self.present = upload.present
        self.ordered = upload.ordered

    def send(self, number: int, data: memoryview) -> None:
        self._try(self._upload.send, number, data)

    def finish(self) -> None:
        self._try(self._upload.finish)
