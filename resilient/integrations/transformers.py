"""Hugging Face Trainer: one callback more, which is told of its trainer.

>>> trainer = Trainer(model, args, train_dataset=data)
>>> trainer.add_callback(Resilient(trainer))
>>> trainer.train()

A step of the run is ``state.global_step``. It lasts until the trainer is about to collect the next step's batches, so
that the logging, the evaluation and the saving that follow a step belong to it. There the snapshot is taken, and there
a run that is resumed goes on: the epochs before are passed over without any data being read, and of the one in which
the run stands only the batches that are left are fetched.

A run that is preempted ends by ``control.should_training_stop``, all callbacks have their ``on_train_end``, and the
script ends there, before it takes a model that is not finished for one that is. In an evaluation it ends at once, and
does that step again another time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from resilient.errors import StateError, UsageError
from resilient.integrations.accelerate import own_loader, own_optimizer, take_from
from resilient.integrations.expected import Known
from resilient.integrations.scalars import scalars
from resilient.integrations.transformers_state import COUNTED, TrainerState
from resilient.worker.attach import attach
from resilient.worker.outer_loop import OuterLoop
from resilient.worker.run import Run

_trainer_module: Any = importlib.import_module("transformers.trainer")
_KNOWN = Known("transformers", "==5.24.*")
_WRAPPED = (
    *("_run_epoch", "get_batch_samples", "training_step", "_evaluate"),
    *("_finalize_training", "_save_checkpoint", "_load_rng_state"),
)
_GIVEN = (
    *("epoch", "epochs_trained", "num_update_steps_per_epoch"),
    *("resume_from_checkpoint", "steps_trained_in_current_epoch"),
)
"""What ``_run_epoch`` is called with, of which some is changed."""
_TrainerCallback: Any = importlib.import_module("transformers").TrainerCallback


class Resilient(_TrainerCallback):  # type: ignore[misc]  # what it is from has no types here
    """Makes ``trainer.train()`` a run. Add it last, so that the other callbacks have had their say.

    Restored are model, optimizer, scheduler, scaler, all random generators, the place in the data, the trainer's state
    with its log, its callbacks that export their state, and the loss since the last logging.

    :param trainer: to which it is added.
    :param attached: what :func:`resilient.attach` takes beside these, such as ``run_id=`` without a supervisor.
    :ivar run: from the start of ``train`` on.
    :raises UsageError: the trainer is of a release that is put together otherwise.
    """

    run: Run

    def __init__(self, trainer: Any, **attached: Any) -> None:
        _KNOWN.require(trainer, *_WRAPPED)
        _KNOWN.require_arguments(trainer._run_epoch, _GIVEN)
        _KNOWN.require(_trainer_module, "skip_first_batches")
        self._trainer = trainer
        self._attached = attached
        self._loop: OuterLoop | None = None
        self._left = self._going = False
        self._losses: list[torch.Tensor] = []
        self._batches = 0  # of the step that has begun

    # --- the beginning and the end

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._loop is not None:
            raise UsageError("trainer.train() was called a second time in one run", "make each a run of its own")
        trainer = self._trainer
        _KNOWN.require(trainer, *COUNTED)
        restored = TrainerState(trainer)
        loader = trainer.callback_handler.train_dataloader
        self.run = attach(
            model=trainer.model,
            optimizer=own_optimizer(trainer.optimizer),
            scheduler=trainer.lr_scheduler,
            scaler=trainer.accelerator.scaler,
            data=own_loader(loader),
            trainer=restored,
            **self._attached,
        )
        if state.global_step != self.run.step:
            raise StateError(
                f"the trainer stands at step {state.global_step}, the snapshot is of step {self.run.step}",
                "leave resume_from_checkpoint out: the run resumes by itself",
            )
        if self.run.step:
            print(f"resilient: the trainer goes on after step {self.run.step}, epoch {state.epoch:.2f}", flush=True)
            args.eval_on_start = False  # it has been
        self._loop = self.run.outer_loop(state.max_steps)
        take_from(loader, self._loop.epochs)
        self._wrap(trainer)

    def _wrap(self, trainer: Any) -> None:
        run_epoch, get_batches = trainer._run_epoch, trainer.get_batch_samples
        training_step, evaluate = trainer.training_step, trainer._evaluate
        finalize, save = trainer._finalize_training, trainer._save_checkpoint

        def run_epoch_from_here(**given: Any) -> None:
            if given["resume_from_checkpoint"] is not None:
                raise UsageError("resume_from_checkpoint is not for a run", "leave it out: the run resumes by itself")
            epoch, done = divmod(trainer.state.global_step, given["num_update_steps_per_epoch"])
            if given["epoch"] < epoch:
                return
            with _batches_left_only(trainer, given, done):
                run_epoch(**given)

        def next_batches(*given: Any, **named: Any) -> Any:
            self._going = self._boundary()
            if not self._going:
                trainer.control.should_training_stop = True
                return [], None
            found = get_batches(*given, **named)
            self._batches = len(found[0])
            self._the_loop.begin_step(found[0])
            return found

        def step_with_loss(*given: Any, **named: Any) -> Any:
            loss = training_step(*given, **named)
            self._losses.append(loss.detach())
            return loss

        def finish(*given: Any, **named: Any) -> Any:
            if self.run.left_early:
                self._leave()
            self._the_loop.consumed(self._batches)
            self._the_loop.finish()
            return finalize(*given, **named)

        trainer._run_epoch, trainer.get_batch_samples = run_epoch_from_here, next_batches
        trainer.training_step, trainer._finalize_training = step_with_loss, finish
        trainer._evaluate = self._in_phase("eval", evaluate)
        trainer._save_checkpoint = self._in_phase("save", save)

    def _in_phase(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            if not self._the_loop.open:
                return call(*given, **named)
            with self.run.phase(name):
                return call(*given, **named)

        return called

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.run.left_early:  # it has not ended, and what is due at its end is not
            control.should_log = control.should_evaluate = control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.run.left_early:
            raise SystemExit(0)  # to the supervisor the run has said what it means

    def _leave(self) -> None:
        trainer = self._trainer
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)

    # --- steps

    def _boundary(self) -> bool:
        """The trainer is about to collect the batches of a step; returns whether it is to go on."""
        if not self._going:
            return self._the_loop.goes_on()
        if not self._the_loop.open:  # an epoch had no batch
            return True
        self._the_loop.consumed(self._batches)
        return self._the_loop.end_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses, self._losses = self._losses, []
        if losses:  # each is divided by the number of batches, as the trainer's own sum of them is
            self.run.report(loss=torch.stack(losses).sum() if len(losses) > 1 else losses[0])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        """The loss that is logged is a mean over several steps, and each has its own here."""
        if self._loop is not None and self._loop.open:
            self.run.report(**{name: value for name, value in scalars(logs).items() if name != "loss"})

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._loop is not None and self._loop.open and self._loop.leaves_unfinished():
            self._leave()

    @property
    def _the_loop(self) -> OuterLoop:
        assert self._loop is not None  # noqa: S101  nothing is wrapped before there is one
        return self._loop


@contextmanager
def _batches_left_only(trainer: Any, given: dict[str, Any], done: int) -> Iterator[None]:
    """Have the trainer count as when it resumes after ``done`` steps of an epoch, and spare it to skip what these had:
    the loader begins behind them.
    """
    skip, load_random, ignored = (
        _trainer_module.skip_first_batches,
        trainer._load_rng_state,
        trainer.args.ignore_data_skip,
    )
    if done:
        given["resume_from_checkpoint"], given["epochs_trained"] = "the run", given["epoch"]
        given["steps_trained_in_current_epoch"] = done * trainer.args.gradient_accumulation_steps
        _trainer_module.skip_first_batches = lambda loader, _: loader
        trainer._load_rng_state, trainer.args.ignore_data_skip = lambda _: None, False
    try:
        yield
    finally:
        _trainer_module.skip_first_batches = skip
        trainer._load_rng_state, trainer.args.ignore_data_skip = load_random, ignored
