"""The training script of the overhead benchmark, the same file under ``resilient train`` and without it.

``small`` and ``large`` train a GPT whose step takes at least 50 and 300 ms on one thread; ``empty`` does nothing in its
steps but report three metrics, so that their time is what resilient costs; ``sleep`` sleeps in its third step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from model import GPT, GPTConfig
from torch import Tensor

import resilient

_BATCH = 8
_SIZES = {
    "small": GPTConfig(block_size=96, layers=4, width=160, dropout=0.0),
    "large": GPTConfig(block_size=128, layers=5, width=288, dropout=0.0),
    "empty": GPTConfig(block_size=8, layers=1, width=16),
    "sleep": GPTConfig(block_size=8, layers=1, width=16),
}
_WARM_UP = 3  # steps that are not counted: the first ones allocate
_SETTLED = 1000  # … and of empty ones, which are many and short


class Training:
    def __init__(self, config: GPTConfig) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.config = config
        self.model = GPT(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def step(self) -> Tensor:
        tokens = torch.randint(self.config.vocab, (_BATCH, self.config.block_size + 1))
        loss: Tensor = self.model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())[1]
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


def steps(run: resilient.Run | None, total: int) -> Iterator[int]:
    if run is None:
        yield from range(1, total + 1)
    else:
        for step, _ in run.steps(total=total):
            yield step


def train(training: Training, run: resilient.Run | None, total: int) -> dict[str, Any]:
    """Seconds from the beginning of each step to that of the next; the last one's snapshot for the disk is in none."""
    began = []
    for _ in steps(run, total):
        began.append(time.perf_counter())
        loss = training.step()
        if run is None:
            loss.item()  # the script without resilient looks at its loss as well
        else:
            run.report(loss=loss)
    seconds = [later - earlier for earlier, later in zip(began, began[1:], strict=False)]
    taken = 0
    if run is not None:
        newest = run._host.arena.newest()  # noqa: SLF001  nothing public counts the snapshots
        taken = newest.info().sequence if newest is not None else 0
    return {"steps": seconds[_WARM_UP:], "snapshots": taken, "bytes": _state_size(training)}


def _state_size(training: Training) -> int:
    return 3 * sum(parameter.nbytes for parameter in training.model.parameters())


def empty(run: resilient.Run | None, total: int) -> dict[str, Any]:
    """Seconds per step, on the clock and on the processor, and per ``run.report`` with three metrics in it."""
    clock, reporting, reported, start, end = time.perf_counter, 0.0, 0.0, 0.0, 0.0
    busy_start, busy = 0.0, 0.0
    for step in steps(run, total):
        if step == _SETTLED:
            start, busy_start, reporting = clock(), time.thread_time(), 0.0
        if step == total:  # its boundary makes a snapshot durable
            end, busy, reported = clock(), time.thread_time() - busy_start, reporting
        before = clock()
        if run is not None:
            run.report(loss=1.5, grad_norm=0.25, lr=1e-3)
        reporting += clock() - before
    counted = total - _SETTLED
    return {"step": (end - start) / counted, "busy": busy / counted, "report": reported / counted}


def sleep(run: resilient.Run | None, seconds: float, record: Path) -> None:
    for step in steps(run, 4):
        if step == 3:
            record.write_text("{}")
            time.sleep(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=_SIZES, required=True)
    parser.add_argument("--plain", action="store_true", help="without resilient")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    training = Training(_SIZES[options.mode])
    run = None if options.plain else resilient.attach(model=training.model, optimizer=training.optimizer)
    if options.mode == "sleep":
        sleep(run, options.seconds, options.record)
        return
    found = empty(run, options.steps) if options.mode == "empty" else train(training, run, options.steps)
    options.record.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
