"""``lineage.json``: the lineage of a run where everybody finds it, whichever machine the run is on.

Written by the supervisor alone, or by a command that holds the run's lock; read by whoever wants to know which
snapshots count.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from resilient.errors import RunDirectoryNotWritable
from resilient.policy.lineage import Lineage
from resilient.protocol.paths import RunPaths

_MOST_BYTES = 16 << 20


def read_lineage(paths: RunPaths) -> Lineage:
    """The run's lineage; that of a run that has never been rolled back if there is no file.

    :raises ValueError: the file is not one that this release has written.
    """
    try:
        with paths.lineage.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return Lineage()
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{paths.lineage} has more than {_MOST_BYTES} bytes")
    return Lineage.from_json(json.loads(data))


def write_lineage(paths: RunPaths, lineage: Lineage) -> None:
    """Replace the file in one step; durable when this returns.

    :raises RunDirectoryNotWritable: it cannot be written.
    """
    fresh = paths.fresh(paths.lineage)
    try:
        with fresh.open("w") as stream:
            json.dump(lineage.to_json(), stream)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(paths.lineage)
        _sync(paths.root)
    except OSError as error:
        raise RunDirectoryNotWritable(
            f"{paths.lineage} cannot be written: {error.strerror}", "free space in the run directory"
        ) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
