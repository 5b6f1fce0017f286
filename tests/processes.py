"""Functions run in several processes that form a group, as the ranks of a training do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SECONDS = 240.0
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint"])


def in_ranks(ranks: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call ``function(rank, *arguments)`` in each of ``ranks`` processes with a gloo group; what they return, in order.

    :raises AssertionError: with the traceback of the first that fails.
    """
    results = _CONTEXT.SimpleQueue()
    store = folder / f"store-{uuid.uuid4().hex}"
    processes = [
        _CONTEXT.Process(target=_run, args=((rank, ranks), store, results, (function, *arguments)))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, problem, result = results.get()
            assert not problem, f"rank {rank}:\n{problem}"
            found[rank] = pickle.loads(result)  # noqa: S301  our own
        for process in processes:
            process.join(_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [found[rank] for rank in range(ranks)]


def _run(place: tuple[int, int], store: Path, results: Any, call: tuple[Any, ...]) -> None:
    import torch  # preloaded here, and not in the test's process
    import torch.distributed as dist

    (rank, ranks), (function, *arguments) = place, call
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        result = function(rank, *arguments)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001  the test tells it
        results.put((rank, traceback.format_exc(), b""))
    else:
        results.put((rank, "", pickle.dumps(result)))  # whole: a tensor's memory would end with this process
