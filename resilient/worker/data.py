"""The position in the data: counted in what is *consumed*, so that prefetching never skips or repeats anything.

A plain ``DataLoader`` is rebuilt around a sampler of ours whose order is a function of (seed, epoch) alone and whose
position is one integer, so resuming in the middle of an epoch costs no reading, whatever ``num_workers`` is. Random
augmentation is seeded for each batch from (seed, epoch, position), so it too is the same after a resume, and does not
touch the generators that the model draws from. Anything with ``state_dict`` (torchdata's ``StatefulDataLoader``,
streaming sets) is used as it is.

Parts of the data can be left out, see :func:`~resilient.worker.positions.leave_out`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from resilient.errors import UsageError
from resilient.worker.loaders import LoaderData, NoData, StatefulData
from resilient.worker.positions import Positioned, Stateful
from resilient.worker.streams import require_exact


def positioned(data: Any, seed: int) -> Positioned:
    """Make ``data`` resumable.

    :raises UsageError: it has no position that could be restored.
    """
    if data is None:
        return NoData()
    if isinstance(data, Stateful):
        require_exact(data)
        return StatefulData(data)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            raise UsageError(
                f"the position in the IterableDataset {type(data.dataset).__name__} cannot be restored",
                "pass a torchdata StatefulDataLoader, or a map-style dataset",
            )
        if type(data).__iter__ is not DataLoader.__iter__:
            raise UsageError(
                f"{type(data).__name__} iterates in its own way, which would be lost with its position",
                "give it state_dict() and load_state_dict(), or pass the DataLoader inside it",
            )
        return LoaderData(data, seed)
    if isinstance(data, Iterable):
        raise UsageError(
            f"the position in a {type(data).__name__} cannot be restored",
            "pass a DataLoader, such as the one that it was made from, or give it state_dict() and load_state_dict()",
        )
    raise UsageError(f"data={data!r} is nothing to iterate over", "pass a DataLoader")
