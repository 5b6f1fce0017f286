"""``lineage.json``: the lineage of a run where everybody finds it, whichever machine the run is on.

Written by the supervisor alone, or by a command that holds the run's lock; read by whoever wants to know which
snapshots count.
"""

from __future__ import annotations

import json

from resilient.policy.lineage import Lineage
from resilient.protocol.paths import RunPaths
from resilient.protocol.small_file import read_bounded, replace_durably

_MOST_BYTES = 16 << 20


def read_lineage(paths: RunPaths) -> Lineage:
    """The run's lineage; that of a run that has never been rolled back if there is no file.

    :raises ValueError: the file is not one that this release has written.
    """
    data = read_bounded(paths.lineage, _MOST_BYTES)
    if data is None:
        return Lineage()
    return Lineage.from_json(json.loads(data))


def write_lineage(paths: RunPaths, lineage: Lineage) -> None:
    """Replace the file in one step; durable when this returns.

    :raises RunDirectoryNotWritable: it cannot be written.
    """
    replace_durably(paths.lineage, json.dumps(lineage.to_json()))
