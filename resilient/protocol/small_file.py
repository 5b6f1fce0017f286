"""Small files of a run that several read: bounded when read, whole and durable when written."""

from __future__ import annotations

import os
from pathlib import Path

from resilient.errors import RunDirectoryNotWritable
from resilient.protocol.paths import RunPaths


def read_bounded(path: Path, most: int) -> bytes | None:
    """The file's content, or None where there is none.

    :param most: bytes; whoever can write in the run directory must not fill our memory.
    :raises ValueError: it has more.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except FileNotFoundError:
        return None
    if len(data) > most:
        raise ValueError(f"{path} has more than {most} bytes")
    return data


def replace_durably(path: Path, text: str) -> None:
    """Replace the file's content in one step; durable when this returns.

    :raises RunDirectoryNotWritable: it cannot be written; what was there still is.
    """
    fresh = RunPaths.fresh(path)
    try:
        with fresh.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise RunDirectoryNotWritable(
            f"{path} cannot be written: {error.strerror}", "free space in the run directory"
        ) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
