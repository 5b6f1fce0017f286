"""``dcp.async_save`` with a writing process of its own, a kept stager and shared memory between the two.

The process is a part of torch's default executor, and needs a process group, which is why this has a seat of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from benchmarks.snapshot_contestant import Contestant
from benchmarks.snapshot_peers_torch import DcpKeptStager
from benchmarks.snapshot_state import State


class DcpProcess(DcpKeptStager):
    name = "dcp.async_save, process"
    where = AsyncCheckpointerType.PROCESS
    shared = True


def contestants(state: State, folder: Path) -> list[Contestant]:
    multiprocessing: Any = torch.multiprocessing
    multiprocessing.set_sharing_strategy("file_system")  # with descriptors, many tensors are too many open files
    distributed: Any = torch.distributed  # its stubs do not export the store
    store = distributed.FileStore(str(folder / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    return [DcpProcess(state, folder)]
