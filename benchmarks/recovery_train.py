"""The training script of the recovery benchmark, the same file under ``resilient train``, ``torchrun`` and
``ft_launcher``.

Only where the steps come from differs: :func:`resilient_steps` is what a user of resilient writes,
:func:`torchrun_steps` what a user of torchrun does, a checkpoint every so many steps, and :func:`ft_launcher_steps`
tells the rank's monitor of each step as well. All record a step when its work is done and before its state is saved.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.recovery_log import StepLog

if TYPE_CHECKING:
    from benchmarks.recovery_model import Training


def main() -> None:
    options = _options()
    rank = int(os.environ.get("RANK", "0"))
    log = StepLog(f"{options.record}-{rank}")
    log.stage("script")
    from benchmarks.recovery_model import Training  # noqa: PLC0415  imports torch, which is to be timed

    log.stage("imports")
    training = Training.build(seed=options.seed, workers=options.data_workers, threads=options.threads)
    log.stage("build")
    take_steps = {"resilient": resilient_steps, "torchrun": torchrun_steps, "ft_launcher": ft_launcher_steps}
    first = True
    for step, (x, y) in take_steps[options.under](training, log, options):
        if first:
            log.stage("batch")
            first = False
        loss = training.step(x, y)
        log.step(step, loss.item())


def resilient_steps(training: Training, log: StepLog, options: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    import resilient  # noqa: PLC0415  a user of torchrun would not import it

    run = resilient.attach(
        model=training.model, optimizer=training.optimizer, scheduler=training.scheduler, data=training.loader
    )
    log.stage("restore")
    yield from run.steps(total=options.steps)


def torchrun_steps(training: Training, log: StepLog, options: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    """The data begins a fresh epoch after each restart, as in most scripts: to skip what was seen would cost more."""
    checkpoint = Path(options.checkpoint)
    step = _load(checkpoint, training) if checkpoint.exists() else 0
    log.stage("restore")
    writes = not torch_distributed() or int(os.environ["RANK"]) == 0
    while step < options.steps:
        for batch in training.loader:
            step += 1
            yield step, batch
            if step % options.save_every == 0 and writes:
                _save(checkpoint, training, step)
            if step == options.steps:
                break


def ft_launcher_steps(training: Training, log: StepLog, options: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    from nvidia_resiliency_ext import fault_tolerance  # noqa: PLC0415  there is only this contestant's environment

    monitor = fault_tolerance.RankMonitorClient()
    monitor.init_workload_monitoring()
    for pair in torchrun_steps(training, log, options):
        yield pair
        monitor.send_heartbeat()


def torch_distributed() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _save(checkpoint: Path, training: Training, step: int) -> None:
    """Replaced in one piece, so that a kill leaves the old one; not synced to disk, which would cost torchrun time."""
    import torch  # noqa: PLC0415  it is there already: see `main`

    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scheduler": training.scheduler.state_dict(),
        "step": step,
        "rng": {"torch": torch.get_rng_state(), "python": random.getstate()},
    }
    draft = checkpoint.with_suffix(".new")
    torch.save(state, draft)
    draft.replace(checkpoint)


def _load(checkpoint: Path, training: Training) -> int:
    import torch  # noqa: PLC0415  it is there already: see `main`

    state = torch.load(checkpoint)
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng"]["torch"])
    random.setstate(state["rng"]["python"])
    return int(state["step"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--under", choices=["resilient", "torchrun", "ft_launcher"], required=True)
    parser.add_argument("--record", required=True, help="the records of steps, one for each rank; appended to")
    parser.add_argument("--checkpoint", default="checkpoint.pt", help="under the others: where the state is saved …")
    parser.add_argument("--save-every", type=int, default=10, help="… and after how many steps")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--data-workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
