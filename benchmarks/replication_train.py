"""The training script of the replication benchmark: a rank of a group whose state is as large as is wanted.

A step computes for a while on one thread, or waits as for a device that computes, and then changes all of the state, as
an optimizer does.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

import resilient

_WARM_UP = 5  # steps that are not counted: the first ones allocate, and the first set of copies finds no memory yet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, required=True, help="of state")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--milliseconds", type=float, required=True, help="that a step computes at least")
    parser.add_argument("--idle", action="store_true", help="wait instead of computing")
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(options.mib << 17)) for _ in range(2)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    run = resilient.attach(model=model, optimizer=optimizer)
    work, began = torch.rand(256, 256), []
    for _ in run.steps(total=options.steps):
        began.append(time.perf_counter())
        until = began[-1] + options.milliseconds / 1000
        if options.idle:
            time.sleep(options.milliseconds / 1000)
        while time.perf_counter() < until:
            work = torch.tanh(work @ work)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.report(loss=float(work[0, 0]))
    seconds = [later - earlier for earlier, later in zip(began, began[1:], strict=False)][_WARM_UP:]
    options.record.with_suffix("." + os.environ["RANK"]).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
