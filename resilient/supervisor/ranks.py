"""The number of ranks: a run goes on with as many as its newest state is of, because each rank's image is a part of
it. Only where it is allowed expressly is a durable state dealt out to others.
"""

from __future__ import annotations

from pathlib import Path

from resilient.errors import ConfigurationError, SnapshotCorrupt
from resilient.protocol import names
from resilient.protocol.paths import RunPaths
from resilient.protocol.spill import Spill
from resilient.protocol.tenancy import Tenant, boot_id
from resilient.snapshot import catalog
from resilient.supervisor.leftovers import newest_step


def require_ranks(paths: RunPaths, memory: Path | None, ranks: int, *, reshard: bool = False) -> None:
    """Compare with what there is of the run, which must be the caller's: the newest snapshot on disk that can be read,
    and what lies in its memory.

    :param memory: directory of the run's memory; None where other nodes have some of the ranks in theirs.
    :param reshard: what is on disk may be of another number.
    :raises ConfigurationError: it is of another number of ranks.
    """
    if not reshard:
        _require_ranks_of_snapshots(paths.snapshots, ranks)
    if memory is None:
        return
    mark, tenant = memory / "identity", Tenant.read(memory)
    ours = mark.exists() and mark.read_text() == paths.identity()
    if ours and tenant is not None and tenant.boot == boot_id():
        _require_ranks_of_memory(memory, ranks)


def _require_ranks_of_snapshots(snapshots: Path, ranks: int) -> None:
    for step in reversed(catalog.committed_steps(snapshots)):
        try:
            manifest = catalog.read_manifest(snapshots / names.snapshot_name(step))
        except SnapshotCorrupt:
            continue
        _require(ranks, manifest.world_size, f"the snapshot of step {step}")
        return


def _require_ranks_of_memory(directory: Path, ranks: int) -> bool:
    """Whether all that is there is of so many ranks; where nothing is in it, it need not be."""
    found = {path.name.partition(".")[0] for path in directory.glob("rank-*.slot-*")}
    if not found or found == {f"rank-{rank:05d}" for rank in range(ranks)}:
        return True
    step = newest_step(directory)
    if step is not None:
        _require(ranks, len(found), f"the state of step {step} that is still in {directory}")
    return False


def clear_other_ranks(directory: Path, ranks: int, spill: Spill | None) -> None:
    """Remove the boards and slots of another number of ranks, in which there is nothing.

    :raises ConfigurationError: there is.
    """
    if _require_ranks_of_memory(directory, ranks):
        return
    paths = list(directory.glob("rank-*"))
    for path in paths:
        path.unlink()
    if spill is not None:
        spill.remove([path.name for path in paths])


def _require(ranks: int, known: int, what: str) -> None:
    if ranks != known:
        raise ConfigurationError(
            f"worker.ranks is {ranks}, but {what} is that of {known}",
            f"set worker.ranks={known} to carry on, or begin a new run with another run.id; what is on disk can be "
            "dealt out to other ranks with run.allow_reshard=true",
        )
