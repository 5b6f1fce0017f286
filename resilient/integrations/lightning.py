"""PyTorch Lightning: one callback more.

>>> trainer = Trainer(max_epochs=10, callbacks=[Resilient()])

A step of the run is a step of the optimizer, as ``trainer.global_step`` counts them, and lasts until Lightning is about
to fetch the next batch: the validation and the logging that follow a step belong to it. There the snapshot is taken,
and there a run that is resumed goes on. Lightning's own way to go on, from a checkpoint, is not taken: it leaves out a
validation that was due, what was logged of the epoch so far, and the place in the data.

A run that is preempted leaves by Lightning's ``SIGTERMException``, as Lightning itself does. In a validation it leaves
at once, and does that step again another time.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import ExitStack
from typing import Any

import torch

from resilient.errors import UsageError
from resilient.integrations.expected import Known
from resilient.integrations.in_place_of import InPlaceOf
from resilient.integrations.lightning_state import NEEDED, TrainerState
from resilient.integrations.scalars import scalars
from resilient.worker.attach import attach
from resilient.worker.outer_loop import OuterLoop
from resilient.worker.run import Run

# Lightning goes by two names, and both may be installed: the one that the script has imported is meant.
_NAMES = ("lightning.pytorch", "pytorch_lightning")
_PACKAGE = next((name for name in _NAMES if name in sys.modules), _NAMES[0])
_Callback: Any = importlib.import_module(_PACKAGE).Callback
_KNOWN = Known(_PACKAGE.removesuffix(".pytorch").replace("_", "-"), "==2.6.*")
_Leaving: Any = importlib.import_module(f"{_PACKAGE}.utilities.exceptions").SIGTERMException


class Resilient(_Callback):  # type: ignore[misc]  # which package it is from is known at run time
    """Makes ``trainer.fit`` a run. Seed everything, or each first start trains another model.

    Restored is what the objects have in their ``state_dict``: module, optimizers, schedulers, loops, the other
    callbacks, the data module, the scaler, and what was logged. What a module adds in ``on_save_checkpoint`` is not.

    :param attached: what :func:`resilient.attach` takes beside these, such as ``run_id=`` without a supervisor.
    :ivar run: from the start of ``fit`` on.
    """

    run: Run | None = None

    def __init__(self, **attached: Any) -> None:
        super().__init__()
        self._attached = attached
        self._loop: OuterLoop | None = None
        self._phase = ExitStack()
        self._losses: list[torch.Tensor] = []
        self._before = 0  # the trainer's step when the run's began
        self._used = False  # whether a batch was trained on that is not counted yet

    # --- the beginning and the end

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if self.run is not None:
            raise UsageError("trainer.fit() was called a second time in one run", "make each fit a run of its own")
        if trainer.reload_dataloaders_every_n_epochs:
            raise UsageError("with reload_dataloaders_every_n_epochs there is no place in the data to resume at")
        _KNOWN.require(trainer, "_signal_connector.register_signal_handlers")
        # Signals are the supervisor's business; Lightning would save, requeue and leave on its own account.
        trainer._signal_connector.register_signal_handlers = lambda: None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        fit = trainer.fit_loop
        _KNOWN.require(fit, "_combined_loader.flattened", "_data_fetcher.fetched", "epoch_loop.advance")
        _KNOWN.require(trainer, "save_checkpoint", "_logger_connector.metrics", *NEEDED)
        loaders = fit._combined_loader.flattened
        if len(loaders) != 1:
            raise UsageError(
                f"{len(loaders)} training loaders, and the place in one can be kept", "combine the data sets"
            )
        state = TrainerState(trainer)
        self.run = attach(
            model=pl_module,
            optimizer=list(trainer.optimizers),
            scheduler=[config.scheduler for config in trainer.lr_scheduler_configs],
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            data=loaders[0],
            trainer=state,
            **self._attached,
        )
        self._loop = self.run.outer_loop(_steps(trainer))
        fit._combined_loader.flattened = [InPlaceOf(self._loop.epochs, loaders[0])]
        iter(fit._data_fetcher)
        state.go_to_epoch()
        self._wrap(trainer, state)

    def _wrap(self, trainer: Any, state: TrainerState) -> None:
        epoch, going, save = trainer.fit_loop.epoch_loop, False, trainer.save_checkpoint
        advance = epoch.advance

        def advance_one(fetcher: Any) -> None:
            nonlocal going
            if not going:
                going = True
                state.go_to_batch(fetcher)
                self._leave_unless(self._the_loop.goes_on())
            else:
                self._boundary(trainer)
            advance(fetcher)
            state.add_up()

        def save_in_phase(*args: Any, **kwargs: Any) -> Any:
            if not self._the_loop.open:
                return save(*args, **kwargs)
            with self._the_run.phase("save"):
                return save(*args, **kwargs)

        epoch.advance, trainer.save_checkpoint = advance_one, save_in_phase

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._count_batch()
        self._report_losses()
        self._the_loop.finish(complete=trainer.global_step != self._before)

    # --- steps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._used = True
        if not self._the_loop.open:
            self._before = trainer.global_step
            self._the_loop.begin_step(batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
        self._report_logged(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._count_batch()  # the next epoch begins before the step ends, and this one may have left data over
        self._report_logged(trainer)

    def _report_logged(self, trainer: Any) -> None:
        """What has been logged in this batch, or in this epoch where it has ended; not what stands from before."""
        self._the_run.report(**scalars(trainer._logger_connector.metrics["callback"]))

    def _boundary(self, trainer: Any) -> None:
        """Lightning is about to fetch a batch."""
        self._count_batch()
        if self._the_loop.open and trainer.global_step != self._before:
            self._report_losses()
            self._leave_unless(self._the_loop.end_step())

    def _count_batch(self) -> None:
        if self._used:
            self._the_loop.consumed()
            self._used = False

    def _report_losses(self) -> None:
        if self._losses:  # each of them is divided by the number of batches that are accumulated
            self._the_run.report(loss=torch.stack(self._losses).sum() if len(self._losses) > 1 else self._losses[0])
            self._losses = []

    def _leave_unless(self, going: bool) -> None:
        if not going:
            raise _Leaving

    # --- validation

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._loop is not None and self._loop.open:
            self._phase.enter_context(self._the_run.phase("eval"))

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        if self._loop is not None and self._loop.open:
            self._leave_unless(not self._loop.leaves_unfinished())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._loop is not None and self._loop.open:
            self._phase.close()
            self._report_logged(trainer)

    @property
    def _the_run(self) -> Run:
        assert self.run is not None  # noqa: S101  hooks of training come after its start
        return self.run

    @property
    def _the_loop(self) -> OuterLoop:
        assert self._loop is not None  # noqa: S101  likewise
        return self._loop


def _steps(trainer: Any) -> int | None:
    """How many there will be, as far as Lightning knows."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else None
