"""Small filesystems for tests, mounted for as long as a test runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these mount options, in a directory that is made for it."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a filesystem: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def frozen(directory: Path) -> Iterator[Path]:
    """A filesystem that does not answer to whoever changes something in it, as that of a dead file server."""
    image, place = directory / "image", directory / "frozen"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    commands = (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)])
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs a loop device and the right to mount it: {error}")
    try:
        subprocess.run(["fsfreeze", "--freeze", str(place)], check=True)
        try:
            yield place
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(place)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def free_bytes(path: Path) -> int:
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def fill(path: Path, but: int) -> Path:
    """Take all room on a filesystem except for ``but`` bytes; returns the file that takes it."""
    ballast = path / "ballast"
    descriptor = os.open(ballast, os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size + free_bytes(path) - but)
    os.close(descriptor)
    return ballast
