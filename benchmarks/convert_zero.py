"""One of the ranks that write a checkpoint with DeepSpeed's ZeRO-2. See :mod:`benchmarks.convert`."""

from __future__ import annotations

import os
import sys

import torch
from torch import nn

from benchmarks.convert_cell import shapes_of

os.environ["DS_ACCELERATOR"] = "cpu"


class _Model(nn.Module):
    """Parameters that are there to be saved."""

    def __init__(self, gigabytes: float) -> None:
        super().__init__()
        for name, shape in shapes_of(gigabytes).items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.randn(shape)))

    def forward(self) -> torch.Tensor:
        return torch.stack([parameter.sum() for parameter in self.parameters()]).sum()


def main(path: str, gigabytes: str) -> None:
    import deepspeed  # noqa: PLC0415  reads its accelerator from the environment

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles for minutes, for speed alone
    deepspeed.init_distributed(dist_backend="gloo")
    model = _Model(float(gigabytes))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": 2},
    }
    engine = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)[0]
    engine.backward(engine())
    engine.step()
    engine.save_checkpoint(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
