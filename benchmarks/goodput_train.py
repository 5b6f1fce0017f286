"""The goodput benchmark's script under ``resilient train``, ``torchrun`` and ``ft_launcher``.

Under resilient the loop is what its users write. Under the others it is the careful version of what theirs do: every
so many steps ``torch.save`` of everything, put in place by a rename, the last few kept; the newest loaded at the start,
and the data taken up where it was. ``ft_launcher``'s rank monitor is told of each step as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.goodput_options import Options
from benchmarks.recovery_log import StepLog

if TYPE_CHECKING:
    from benchmarks.goodput_job import Spike, Training


def main() -> None:
    options = Options.parse()
    log = StepLog(str(options.record))
    log.stage("script")
    from benchmarks.goodput_job import Spike, Training, finish  # noqa: PLC0415  imports torch, which takes a while

    log.stage("imports")
    training, spike = Training.build(options), Spike(options)
    loop = {"resilient": resilient_loop, "torchrun": plain_loop, "ft_launcher": ft_launcher_loop}[options.under]
    if loop(training, spike, log, options):
        finish(training.model, options)


def resilient_loop(training: Training, spike: Spike, log: StepLog, options: Options) -> bool:
    """Whether the run is complete."""
    from torch.utils.data import DataLoader  # noqa: PLC0415  imported already: see `main`

    import resilient  # noqa: PLC0415  a user of torchrun would not import it
    from benchmarks.goodput_job import BATCH  # noqa: PLC0415  see `main`

    loader = DataLoader(training.samples, batch_size=BATCH, drop_last=True)
    run = resilient.attach(
        model=training.model, optimizer=training.optimizer, scheduler=training.scheduler, data=loader
    )
    log.stage("restore")
    for step, (x, y) in run.steps(total=options.steps):
        loss, norm = training.step(x, y, step, spike)
        run.report(loss=loss, grad_norm=norm)
        log.step(step, loss.item())
    return run.finished


def _nothing() -> None:
    """Nobody is told of steps."""


def plain_loop(
    training: Training,
    spike: Spike,
    log: StepLog,
    options: Options,
    *,
    connect: Callable[[], None] = _nothing,
    beat: Callable[[], None] = _nothing,
) -> bool:
    """:param connect: called when the state is there. The monitor of ft_launcher 0.4.1 takes no heartbeat any more once
    a process has ended between its connection and its first one, as it does with a checkpoint that cannot be loaded.
    :param beat: called after each step.
    """
    from torch.utils.data import DataLoader, Subset  # noqa: PLC0415  see `main`

    from benchmarks.goodput_job import BATCH  # noqa: PLC0415  see `main`

    options.checkpoints.mkdir(exist_ok=True)
    saved = sorted(options.checkpoints.glob("step-*.pt"))
    step = _load(saved[-1], training) if saved else 0
    log.stage("restore")
    connect()
    samples = training.samples
    left = Subset(samples.dataset, samples.indices[step * BATCH :])  # by number, so that skipping costs nothing
    for x, y in DataLoader(left, batch_size=BATCH, drop_last=True):
        step += 1
        loss, _ = training.step(x, y, step, spike)
        log.step(step, loss.item())
        if step % options.save_every == 0:
            _save(options, training, step)
        beat()
        if step == options.steps:
            return True
    return False


def ft_launcher_loop(training: Training, spike: Spike, log: StepLog, options: Options) -> bool:
    from nvidia_resiliency_ext import fault_tolerance  # noqa: PLC0415  there is only this contestant's environment

    monitor = fault_tolerance.RankMonitorClient()
    connect, beat = monitor.init_workload_monitoring, monitor.send_heartbeat
    return plain_loop(training, spike, log, options, connect=connect, beat=beat)


def _save(options: Options, training: Training, step: int) -> None:
    """Replaced in one piece, so that a kill leaves the old ones; not synced to disk, which would cost them time."""
    import torch  # noqa: PLC0415  see `main`

    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scheduler": training.scheduler.state_dict(),
        "step": step,
    }
    draft = options.checkpoints / "new"
    torch.save(state, draft)
    draft.replace(options.checkpoints / f"step-{step:06d}.pt")
    for old in sorted(options.checkpoints.glob("step-*.pt"))[: -options.keep]:
        old.unlink()


def _load(checkpoint: Path, training: Training) -> int:
    import torch  # noqa: PLC0415  see `main`

    state = torch.load(checkpoint)
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.scheduler.load_state_dict(state["scheduler"])
    return int(state["step"])


if __name__ == "__main__":
    main()
