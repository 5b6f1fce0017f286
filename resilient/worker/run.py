"""The run as the training script sees it: the loop over steps, and reporting."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from resilient.errors import StorageFull, UsageError
from resilient.protocol.arena import Slot
from resilient.protocol.board import Command, WorkerPhase
from resilient.protocol.environment import is_replay
from resilient.worker.alignment import Alignment
from resilient.worker.capture import Capture
from resilient.worker.group import Group
from resilient.worker.host import Host
from resilient.worker.loaders import NoData
from resilient.worker.log_file import rotate_if_large
from resilient.worker.outer_loop import OuterLoop
from resilient.worker.overlap import Copier, Trust
from resilient.worker.own_work import OwnWork
from resilient.worker.phases import Phases
from resilient.worker.positions import Data, Stateful
from resilient.worker.reporting import Reporter, users_own
from resilient.worker.rng import GlobalRandomState
from resilient.worker.spent import Spent
from resilient.worker.step_hooks import StepHooks


class Run:
    """One training run, as returned by :func:`resilient.attach`.

    :ivar step: the last completed step; 0 before the first. It was ``start_step`` when the run was attached.
    :ivar finished: all steps are done.
    :ivar left_early: the loop ended before the last step because the run is being preempted or stopped.
    :ivar lr_factor: what the learning rate is multiplied by while an optimizer steps; 1 unless a divergence has had it
        lowered.
    :ivar is_replay: steps of a run are done again only to see if they give what they gave. A script should not write
        over files of its own then; what comes after the loop is not done.
    """

    def __init__(
        self,
        host: Host,
        objects: Mapping[str, Stateful],
        data: Data,
        random: GlobalRandomState,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.step = 0
        self.finished = self.left_early = False
        self.is_replay = is_replay()
        self._host = host
        self._data = data
        self._random = random
        self._reporter = Reporter()
        self._capture = Capture(objects, allow_pickle=host.settings.allow_pickle)
        self._latest: dict[str, float] = {}
        self.start_step = self._total = 0
        self._body: int | None = None  # the step whose loop body is running
        self._began = 0.0
        self._clock = clock
        self._schedule = host.schedule(clock)
        self._group = host.group
        self._leaving: bool | None = None  # what the ranks have agreed on at this boundary
        self._alignment = Alignment(objects, clock)
        self._memory_due = self._durable_due = False
        self._durable_step: int | None = None
        self._entered = self._missed = False  # the latter: there was no room for a memory snapshot once
        self._own_time = OwnWork(objects, clock) if host.ranks > 1 else None
        self._phases = Phases(self, host, self._own_time)
        self._spent, self._copier = Spent(clock), Copier()
        self.lr_factor = host.plan.lr_factor
        self._hooks = StepHooks(host.plan, objects, self._reporter)
        self._overlap = Trust(on=host.settings.overlap)

    def steps(self, total: int) -> Iterator[tuple[int, Any]]:
        """Yield ``(step, batch)`` for every step that is still to be done; steps are numbered 1 to ``total``.

        When the loop asks for the next pair, the step before is complete: it is reported, a snapshot is taken when
        one is due, and the loop ends early when the run is being preempted; see :attr:`left_early`. While gradients are
        being accumulated over several steps, both wait for the step that applies them.

        :param total: the step after which the run is finished. It may be raised when a run is resumed.
        :raises UsageError: the loop is entered a second time, or the data has no batch.
        """
        self._open(total, said=total)
        batches, own = self._data.batches(self._random.set_now), self._own_time
        while self.goes_on():
            batch = self._spent.fetch(lambda: next(batches) if own is None else own.fetch(batches))
            yield self.begin_step(batch), batch
            self.end_step()
        self.finish()

    def outer_loop(self, total: int | None = None) -> OuterLoop:
        """For a loop that belongs to somebody else, a framework's, and cannot be one over :meth:`steps`: what it calls
        in their place, see :class:`~resilient.worker.outer_loop.OuterLoop`.

        :param total: how many steps there will be, for those who watch. When the last one is over it is for the loop to
            say.
        :raises UsageError: there is a loop already.
        """
        self._open(sys.maxsize, said=total or 0)
        return OuterLoop(self, self._data, self._random.set_now)

    @property
    def batch(self) -> int:
        """For a script that makes its own batches: the number of the current one, counted from 1 over the whole run. It
        is the step's, until data is left out; use it in the step's place wherever a batch is chosen or made.

        :raises UsageError: ``data`` was given to :func:`resilient.attach`.
        """
        if not isinstance(self._data, NoData):
            raise UsageError("run.batch counts the batches of scripts that make their own", "use the batch itself")
        return self._data.count

    def phase_change(self) -> None:
        """Say that from this step on metrics may lie elsewhere, as where the loss or the data is exchanged for another,
        so that it is not taken for a divergence. Outside the loop's body it is from the next step on.
        """
        self._hooks.phase_change(self._body)

    def report(self, **values: Any) -> None:
        """Report metrics of the current step: numbers, or tensors of one element (read without a device sync).

        :raises UsageError: a value is not one number.
        """
        self._reporter.add(self.step if self._body is None else self._body, values)
        if self._body is None:
            self._publish(flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Declare that what happens inside is not a training step, so that it is not taken for a hang: ``"eval"``,
        ``"save"``, or any other name. How long it may take is learned for each name, so use few of them:
        ``run.phase("generate")``, not one with the step's number in it.

        A snapshot that is still being copied is waited for, so that parameters may be exchanged inside, as averages
        and schedule-free optimizers do for evaluation.
        """
        self._wait_for_copy()
        with self._phases.inside(name), self._spent.phase():
            yield

    def finish(self) -> None:
        """Say that the run is finished. The loop does so after its last step; call it after stopping earlier on
        purpose. The newest snapshot in memory becomes durable then; a step in whose body the loop was left is not
        complete, and not in it. Where the loop has left early, it does nothing: the run goes on another time.
        """
        if self.finished or self.left_early:
            return
        self._alignment.close()
        self._hooks.close()
        self._copier.close()
        self._make_newest_durable()
        self._capture.close()
        self._publish(flush=True)
        self._host.finished()
        self.finished = True

    def resume(self, step: int, random: Mapping[str, Any]) -> None:
        """Continue after ``step``; called by :func:`resilient.attach`. The generators are set
        back only once the data's iterator exists, because making one may draw from them.
        """
        self.step = self.start_step = step
        self._random.set_later(random)

    # --- the loop, in parts: they are called by the two kinds of it alone

    def goes_on(self) -> bool:
        """Whether there is to be another step; where not because of a request, all that it takes to leave is done."""
        if self._stops():
            self._leave(self._host.stopped, self._make_step_durable)
            if self.is_replay:  # what a script does after its loop, it does to files that are there already
                raise SystemExit(0)
            return False
        return self.step < self._total and not self._asked_to_leave()

    def begin_step(self, batch: Any) -> int:
        """The next step begins; returns its number."""
        self._phases.beat(WorkerPhase.STEP)
        self._hooks.begins(self.step + 1, batch)
        self._body, self._began = self.step + 1, self._clock()
        return self.step + 1

    def end_step(self, *, last: bool = False) -> None:
        """It is complete, and maybe there will be no other."""
        self._body = None
        self._total = self.step + 1 if last else self._total
        self._complete_step(self.step + 1, self._total, self._clock() - self._began)

    def leaves_unfinished(self) -> bool:
        """Leave if that is wanted, without the step that has begun. Ranks cannot agree on it, and never do."""
        if self._group is not None or self._host.command() is not Command.LEAVE:
            return False
        self._reporter.forget(after=self.step)
        self._leave(self._host.left, self._make_newest_durable)
        return True

    def _open(self, total: int, *, said: int) -> None:
        if self._entered:
            raise UsageError("run.steps() was entered a second time", "use one loop over all steps")
        self._entered = True
        self._total = total
        self._host.set_total(said)
        self._alignment.open()
        self._hooks.open()

    # --- the step boundary

    def _complete_step(self, step: int, total: int, seconds: float) -> None:
        self.step = step
        self._hooks.ended(step)
        in_body = self._copier.take_waited()
        self._wait_for_copy()
        waited = self._spent.stall(in_body + self._copier.take_waited())
        self._schedule.worked(max(0.0, seconds - in_body), waited=waited)
        aligned = self._alignment.boundary()
        asked = self._host.command() is Command.LEAVE
        last = not self._stops() and (step == total or (aligned and self._leaves(asked=asked)))
        self._see_what_is_due(step, aligned=aligned, last=last)
        due = self._memory_due or (self._durable_due and self._may_hold(last=last))
        taking = due and (aligned or last)
        self._publish(flush=taking)
        if taking:
            began = self._clock()
            self._memory_due = False  # before: a copy that turns out void makes it due again
            self._snapshot(step, last=last)
            self._schedule.imaged(step, self._spent.stall(self._clock() - began))
            self._alignment.taken()
        elif due or asked:
            self._alignment.kept_waiting(step)
        if (chosen := self._schedule.chosen()) is not None:
            self._host.interval_chosen(chosen)
        if self._own_time is not None:
            self._host.own_time(*self._own_time.of_step())
        self._host.spent(self._spent.data, self._spent.stalled, self._spent.aside)
        self._host.beat(WorkerPhase.STEP, step)
        rotate_if_large()

    def _leaves(self, *, asked: bool) -> bool:
        """Whether the loop ends at this boundary. Ranks agree on it once, and keep to it."""
        if self._group is None:
            return asked
        if self._leaving is None:
            self._leaving = self._group.leaves(self.step, asked=asked)
        return self._leaving

    def _see_what_is_due(self, step: int, *, aligned: bool, last: bool) -> None:
        if self._stops() or not self._host.settings.memory:
            self._memory_due = self._durable_due = False
            return
        if self._group is not None:  # rank 0's word counts, also where an image of the step before has failed
            self._memory_due, durable = self._group.due(step, aligned=aligned)
            self._durable_due = durable or last
            return
        self._durable_due |= self._schedule.due(step, self._host.snapshots_asked()) or last
        self._memory_due |= self._schedule.memory_due(step)

    def _enter_step(self, group: Group, step: int) -> None:
        """The ranks go on to ``step``; rank 0 says what will be due after it."""
        if group.leads:
            durable = self._schedule.due(step, self._host.snapshots_asked())
            group.want(memory=self._schedule.memory_due(step), durable=durable)
            group.announce(step, may_hold=not self._host.arena.held())
        self._leaving = None
        group.enter(step)

    def _asked_to_leave(self) -> bool:
        asked = self._host.command() is Command.LEAVE
        if not self._alignment.aligned or not self._leaves(asked=asked):
            if self._group is not None:
                self._enter_step(self._group, self.step + 1)
            return False
        self._leave(self._host.left, self._make_step_durable)
        return True

    def _stops(self) -> bool:
        """Whether the plan wants no more of the run than this."""
        return self._host.plan.stop_after is not None and self.step >= self._host.plan.stop_after

    def _leave(self, say: Callable[[int], None], make_durable: Callable[[], None]) -> None:
        self.left_early = True
        self._alignment.close()
        self._hooks.close()
        self._wait_for_copy()
        self._publish(flush=True)
        if not self._stops():
            make_durable()
        self._host.beat(WorkerPhase.STOPPING)
        say(self.step)
        if self._group is not None:
            self._group.wait_until_all_left()

    def _make_step_durable(self) -> None:
        """The command may have come after the boundary's snapshot was decided on, or before the first step."""
        newest = self._host.arena.find(self.step)
        if self._durable_step == self.step or not self._host.settings.memory:
            return
        if newest is not None:
            newest.hold()
            self._host.durable_requested(newest)
        elif self.step > self.start_step:
            self._durable_due = True
            self._snapshot(self.step, last=True)

    def _make_newest_durable(self) -> None:
        newest = self._host.arena.newest()
        step = newest.info().step if newest is not None else 0
        if newest is not None and step > max(self.start_step, self._durable_step or 0):
            newest.hold()
            self._host.durable_requested(newest)

    def _wait_for_copy(self) -> None:
        self._copier.wait()
        if self._overlap.lost_first():
            warnings.warn(
                "a parameter was changed between two optimizer steps while it was being copied; that snapshot is void, "
                "and another is taken. Change parameters inside run.phase(), or set snapshot.overlap=false",
                stacklevel=2,
            )

    def _snapshot(self, step: int, *, last: bool) -> None:
        self._host.arena.void_growing()  # nothing is being copied: a copy that is not complete has met with an error
        slot = self._next_slot()
        if slot is None:
            self._put_off(hold=False)
            return  # every slot waits for the drain; the newest image stands
        hold = self._durable_due and self._may_hold(last=last)
        if self._group is not None:
            self._group.begun(step, durable=hold)
        grow = hold and self._host.writes_growing
        sequence, meta = self._host.arena.next_sequence(), {"metrics": dict(self._latest)}

        def done(unchanged: bool) -> None:
            if unchanged:
                slot.complete(sequence, meta, hold=hold)
            else:
                slot.void()
            self._written(slot, step, hold=hold, is_whole=unchanged)

        try:
            if not last and self._alignment.seen and self._overlap.allows():
                self._capture.write_overlapped(slot, step, self._copier, done, grow=grow)
            else:
                # The disk slows the copy down: only the last one is in more of a hurry to be durable than to be taken.
                self._capture.write(slot, step, grow=grow and last)
                done(True)
        except StorageFull as error:
            if self._group is not None:
                self._group.want(memory=True, durable=hold)
            other = self._next_slot()
            if other is not None and not other.cramped:
                self._snapshot(step, last=last)
            else:
                self._go_without(error)
            return
        self._host.preparation.want(slot.info().size)

    def _written(self, slot: Slot, step: int, *, hold: bool, is_whole: bool) -> None:
        if self._group is not None:
            self._group.written()
        if not is_whole:
            self._overlap.voided()
            self._put_off(hold=hold)
        elif hold:
            self._durable_due, self._durable_step = False, step
            self._schedule.taken(lambda: slot.info().held and slot.info().step == step)
            self._host.durable_requested(slot)

    def _next_slot(self) -> Slot | None:
        arena = self._host.arena
        return arena.next_free() if self._group is None else self._group.next_slot(arena)

    def _put_off(self, *, hold: bool) -> None:
        """There is no image after all: at the next boundary, then. Ranks wait until rank 0 says so again."""
        self._memory_due = True
        if self._group is not None:
            self._group.want(memory=True, durable=hold)

    def _may_hold(self, *, last: bool) -> bool:
        """One slot at most waits for the disk while training goes on, so that images go on being taken. What is due
        then is made durable at the first boundary after that. Among ranks, rank 0 has seen to it before.
        """
        return last or self._group is not None or not self._host.arena.held()

    def _go_without(self, error: StorageFull) -> None:
        """There is no room for an image, though there was for earlier ones: go on, and try again at the next. Not
        without any image, nor at the end of the run, whose state would be lost.
        """
        if self.step >= self._total or (self._host.arena.newest() is None and not self.start_step):
            raise error
        if not self._missed:
            self._missed = True
            warnings.warn(
                f"the state has grown and NO MEMORY SNAPSHOT CAN BE TAKEN: {error} Training goes on; a crash now goes "
                "back to the last image there was room for. Every snapshot that is due tries again",
                stacklevel=2,
            )

    def _publish(self, *, flush: bool) -> None:
        ready = self._reporter.ready(before=self.step + (1 if flush else 0))
        for metrics in ready:
            self._latest.update(users_own(metrics.values))
        self._host.publish(ready)
