"""The number of ranks: a run goes on with as many as it was begun with, because each rank's image is a part of the
state, and nothing distributes the parts anew.
"""

from __future__ import annotations

from pathlib import Path

from resilient.errors import ConfigurationError, SnapshotCorrupt
from resilient.protocol import names
from resilient.protocol.spill import Spill
from resilient.snapshot import catalog
from resilient.supervisor.leftovers import newest_step


def require_ranks_of_snapshots(snapshots: Path, ranks: int) -> None:
    """Compare with the newest snapshot on disk that can be read.

    :raises ConfigurationError: it has another number of ranks.
    """
    for step in reversed(catalog.committed_steps(snapshots)):
        try:
            manifest = catalog.read_manifest(snapshots / names.snapshot_name(step))
        except SnapshotCorrupt:
            continue
        _require(ranks, manifest.world_size, f"the snapshot of step {step}")
        return


def require_ranks_of_memory(directory: Path, ranks: int, spill: Spill | None) -> None:
    """Compare with the slots that an earlier life has left in shared memory; those in which nothing is are removed.

    :raises ConfigurationError: they are those of another number of ranks, and hold a state.
    """
    paths = list(directory.glob("rank-*"))
    found = {path.name.partition(".")[0] for path in paths if ".slot-" in path.name}
    if not found or found == {f"rank-{rank:05d}" for rank in range(ranks)}:
        return
    step = newest_step(directory)
    if step is not None:
        _require(ranks, len(found), f"the state of step {step} that is still in {directory}")
    for path in paths:
        path.unlink()
    if spill is not None:
        spill.remove([path.name for path in paths])


def _require(ranks: int, known: int, what: str) -> None:
    if ranks != known:
        raise ConfigurationError(
            f"worker.ranks is {ranks}, but {what} is that of {known}",
            f"set worker.ranks={known} to carry on, or begin a new run with another run.id",
        )
