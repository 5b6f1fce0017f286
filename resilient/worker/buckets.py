"""The order in which gradients are summed, made the same in every round.

``DistributedDataParallel`` sends gradients in buckets. After the first backward pass of a process it lays them out
anew, in the order in which the gradients came. Where in a bucket a gradient lies decides in which order the parts of
the ranks are added up, and with three ranks or more the sum depends on that in its last bits. So the first step after
each launch would not be the step that it is in a run without one. Here a pass without a model, in the order of the
parameters from last to first, lets the buckets be laid out once and for all before the first step, in every round.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

_ORDERED = 2  # so many parts have the same sum in whatever order


def settle_buckets(objects: Iterable[Any]) -> None:
    """Lay out the buckets of all such modules among the objects. A collective: all ranks call it, before any training.

    Where the user has a hook of their own in the communication, or ``static_graph=True``, nothing is done.
    """
    for item in objects:
        if isinstance(item, torch.nn.Module):
            for module in item.modules():
                if isinstance(module, DistributedDataParallel):
                    _settle(module)


def _settle(module: DistributedDataParallel) -> None:
    if dist.get_world_size(module.process_group) <= _ORDERED or module.find_unused_parameters:
        return  # in the latter case they stay as they are
    inside: Any = module  # what follows is not part of torch's interface
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if any(parameter.grad is not None for parameter in parameters):
        return
    try:
        if inside.static_graph or inside._comm_hooks or inside._use_python_reducer or inside._delay_all_reduce_params:  # noqa: SLF001
            return
        inside.reducer.prepare_for_forward()
        inside.reducer.prepare_for_backward([])
    except AttributeError:
        warnings.warn(
            "this release of torch lays out DDP's buckets in a way that resilient does not know; with three ranks or "
            "more, the first step after a relaunch may differ in the last bits of its gradients. "
            "DistributedDataParallel(…, find_unused_parameters=True) avoids that",
            stacklevel=2,
        )
        return
    with torch.enable_grad():
        terms = [parameter.flatten()[:1].sum() * 0 for parameter in parameters]
        torch.autograd.backward(terms)
    for parameter in parameters:
        parameter.grad = None
    inside.reducer._rebuild_buckets()  # noqa: SLF001
