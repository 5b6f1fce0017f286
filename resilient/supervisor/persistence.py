"""Making snapshots durable, and bringing durable ones back into memory: what stands between the loop and the drain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from resilient.policy import events as on
from resilient.policy.flush import FlushPlan, Writing, plan_flush
from resilient.policy.lineage import Lineage
from resilient.snapshot import catalog
from resilient.snapshot.manifest import bounded
from resilient.supervisor.agreement import unfulfilled
from resilient.supervisor.console import Console
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_answers import (
    Answer,
    Persisted,
    PersistFailed,
    Rejected,
    Restored,
    RestoreFailed,
    TidyFailed,
)
from resilient.supervisor.journal import Journal
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.other_nodes import NobodyElse, OtherNodes
from resilient.supervisor.remote import RemoteCopies
from resilient.supervisor.spec import RunSpec


class Persistence:
    """Knows what is durable, what is on its way there, and what is not.

    :ivar identity: of the snapshot that this round resumed from, recorded as parent of the next ones.
    :ivar durable: newest step that is durable, and on the lineage.
    :ivar lineage: what the run is the continuation of; what is not on it is no snapshot.
    :ivar restored: what the snapshot that was restored last says of divergence.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        memory: RunMemory,
        drain: Drain,
        remote: RemoteCopies | None = None,
        journal: Journal,
        console: Console,
        clock: Callable[[], float],
        durations: Callable[[], Mapping[str, float]] = dict,
        divergence: Callable[[int], Mapping[str, Any]] = lambda _step: {},
        others: OtherNodes | None = None,
    ) -> None:
        """Nothing is done yet.

        :param durations: says what the run's phases are known to take, to be written into each snapshot.
        :param divergence: says of a step what its manifest is to say of divergence.
        :param others: have copies of what is lost with one of them.
        """
        self._spec = spec
        self._memory = memory
        self._drain = drain
        self._remote = remote
        self._journal = journal
        self._console = console
        self._clock = clock
        self.identity: str | None = None
        self.durable: int | None = None
        self.lineage = Lineage()
        self.restored: Mapping[str, Any] = {}
        self._flushing = False
        self._hurried = False  # the run is to end, and does not keep to a limit any more
        self._flush_by = math.inf
        self._skipped = False  # there is no time for the newest image
        self._unsaved: str | None = None
        self._fetched: int | None = None  # the step that is being read into memory and came from the remote tier
        self._durations = durations
        self._divergence = divergence
        self._others: OtherNodes = others or NobodyElse(len(memory.ranks))
        self._surveying = False  # it is asked what the other nodes have
        self._rescuing: int | None = None  # the step of which that is being made durable

    @property
    def memory_is_durable(self) -> bool:
        """Whether the shared memory holds nothing that is not on disk as well."""
        parts = self._memory.newest_in_part
        return self._unsaved is None and (parts is None or parts <= (self.durable or 0))

    def adopt(self) -> None:
        """Forget which slots a killed predecessor was writing to disk, and look at what it has written."""
        self._memory.void_growing()
        self._memory.release_all()
        self._look()
        if self._remote is not None:
            self._remote.open()

    def adopt_lineage(self, lineage: Lineage) -> None:
        """The lineage is known: finish what a predecessor had begun of a rollback."""
        self.follow(lineage)
        if lineage.target is not None:
            self._memory.forget_newer(lineage.target)
        if lineage.rollbacks:
            self.set_aside()
        self._look()

    def follow(self, lineage: Lineage) -> None:
        """From now on, what is not on this lineage is no snapshot."""
        self.lineage = lineage
        if self._remote is not None:
            self._remote.lineage = lineage

    def discard_after(self, step: int) -> None:
        """The run goes on from ``step``, and no worker is up. Nothing is deleted from the disk by this."""
        self._memory.forget_newer(step)
        self._drain.discard_after(step, self.lineage.to_json())
        if self._remote is not None:
            self._remote.discard_after(step)
        self._look()

    def forget_after(self, step: int) -> None:
        """As far as memory goes: the run goes on from ``step``, and nothing later is to become durable."""
        self._memory.forget_newer(step)

    def set_aside(self) -> None:
        """What lies on the disk and is not on the lineage is not to be taken for a snapshot by anybody."""
        self._drain.set_aside(self.lineage.to_json())

    def delete_discarded(self) -> None:
        """What rollbacks have set aside is no evidence any more."""
        if catalog.discarded(self._spec.paths.snapshots):
            self._drain.delete_discarded()

    def _committed(self) -> tuple[int, ...]:
        return catalog.steps_on(self._spec.paths.snapshots, self.lineage)

    def _look(self) -> None:
        self.durable = max(self._committed(), default=None)

    def list_snapshots(self) -> on.SnapshotsListed | None:
        """What could be resumed from, now; None while we wait to hear of the remote tier, and shall be asked again."""
        self._memory.void_growing()
        self._memory.keep_linked()
        for step in unfulfilled(self._memory):
            self._memory.release(step)
        durable = self._committed()
        quarantined = catalog.count_quarantined(self._spec.paths.snapshots)
        listed = on.SnapshotsListed(self._memory.newest_step(), durable, quarantined)
        if self._remote is None:
            return listed
        if not self._remote.ready(nearer=listed.memory_step is not None or bool(durable)):
            return None
        return self._remote.complete(listed)

    def restore(self, step: int, tier: on.Tier = on.Tier.LOCAL) -> None:
        """Have the snapshot of ``step`` read into memory; :meth:`receive` says how it went. What memory holds is older,
        but stays until the snapshot has turned out to be sound.
        """
        self._memory.mark_foreign(step)
        slots = self._memory.free_slots()
        sequence = self._memory.next_sequence()
        self._fetched = None
        if tier is on.Tier.REMOTE and self._remote is not None:
            # other nodes, and ranks that need parts of several images, read what lies in the local tier
            fetch = self._spec.policy.nodes is not None or self._spec.allow_reshard
            self._remote.restore(step, slots, sequence, fetch=fetch)
        else:
            self._drain.restore(step, slots, sequence, reshard=self._spec.allow_reshard)

    def abandon_restore(self, tier: on.Tier) -> None:
        """Whoever was asked to restore stands still: another one will do it."""
        if tier is on.Tier.REMOTE and self._remote is not None and self._fetched is None:
            self._remote.abandon_restore()
        else:
            self._drain.abandon_restore()

    def persist_held(self, round_number: int) -> None:
        """Have everything written to disk that the workers, or a flush, hold for that."""
        if self._remote is not None:
            self._remote.poll()
        for step in self._memory.held_steps():
            slots = self._memory.held_slots(step)
            if slots is None or self._drain.pending(step):
                continue
            if not self.lineage.holds(step, round_number):
                self._memory.release(step)  # a rollback is on its way that discards it
                continue
            self._drain.persist(step, slots, self._details(step, round_number))

    def _details(self, step: int, round_number: int) -> dict[str, Any]:
        """What the drain is to write and to heed beside the images."""
        watched = self._spec.policy.divergence
        return {
            "run_id": self._spec.paths.run_id,
            "round": max(round_number, 0),
            "parent": self.identity,
            "versions": dict(self._spec.versions),
            "durations": {phase: round(seconds, 6) for phase, seconds in self._durations().items()},
            "divergence": bounded(self._divergence(step)),
            "retention": asdict(self._spec.retention),
            "margin": watched.margin if watched.enabled else None,
            "deduplicate": self._spec.snapshot.deduplicate,
            "in_use": self._remote.in_use() if self._remote is not None else (),
            "write_bytes_per_second": 0.0 if self._hurried else self._spec.snapshot.write_bytes_per_second,
        }

    def workers_leave(self, gone_by: float, flush_by: float | None) -> None:
        """The workers were asked for a last snapshot. If it could not become durable in what time is left after that,
        the image that is in memory already goes to disk now.

        :param gone_by: when the workers will be gone at the latest.
        :param flush_by: when the run has to end, if there is such a time.
        """
        self._hurry()
        newest = self._newest_unsaved()
        if flush_by is None or newest is None or self._drain.rate <= 0:
            return
        if self._drain.busy or self._memory.held_steps():  # with two slots, the workers' last one needs the other
            return
        needed = newest.size / self._drain.rate
        if gone_by + needed > flush_by >= self._clock() + needed:
            self._console.say(
                f"step {newest.step} goes to disk now: it takes about {needed:.1f} s, a later one might come too late"
            )
            self._memory.hold(newest.step)

    def flush(self, round_number: int, by: float | None) -> None:
        """Make the newest image durable, whoever took it; :meth:`flushed` says when that is done, or time is up.

        :param by: when the run has to end, if there is such a time.
        """
        self._memory.void_growing()
        self._memory.keep_linked()
        self._flushing, self._flush_by = True, math.inf if by is None else by
        writing = self._drain.writing
        if writing is not None and self._drain.growing and self._memory.slots_of(writing.step) is None:
            self._drain.abandon()  # it can become nothing any more
        newest = self._newest_unsaved()
        remaining = self._flush_by - self._clock()
        plan = plan_flush(newest, self._drain.writing, self._drain.current_rate, remaining)
        self._carry_out(plan, newest)
        self._hurry()
        self.persist_held(round_number)
        if newest is None:
            self._rescue()

    def rescued(self, round_number: int) -> bool:
        """Make durable what is in memory, or what the nodes remember together, before it is forgotten; whether there is
        nothing more to wait for. To be called again until then.

        :param round_number: of the last round.
        """
        if self._rescuing is None and not self._surveying:
            newest = self._newest_unsaved()
            if newest is None:
                self._rescue()
            else:
                self._rescuing = newest.step
                self._memory.hold(newest.step)
                self.persist_held(round_number)
        if not self._has_rescued():
            return False
        self._rescuing = None
        return True

    def _rescue(self) -> None:
        """Where a node is lost, and its memory with it, what others have of it becomes durable."""
        self._surveying, self._rescuing = True, None

    def _has_rescued(self) -> bool:
        if self._surveying:
            if not self._others.survey():
                return False
            self._surveying = False
            self._persist_copies()
        return self._rescuing is None or not self._drain.pending(self._rescuing)

    def _persist_copies(self) -> None:
        copies = self._others.copies()
        if copies is None or (self.durable is not None and copies.step <= self.durable):
            return
        if self.lineage.holds(copies.step, copies.round):
            self._rescuing = copies.step
            if not self._drain.pending(copies.step):
                self._console.say(f"making step {copies.step} durable, partly from copies in other nodes' memory")
                self._drain.persist(copies.step, copies.slots, self._details(copies.step, copies.round))

    def _hurry(self) -> None:
        self._hurried = True
        self._drain.hurry()

    def _carry_out(self, plan: FlushPlan, newest: Writing | None) -> None:
        self._journal.record("note", plan, self._clock())
        self._skipped = newest is not None and newest.step not in plan.steps
        if plan.steps and (plan.abandon or self._skipped or not plan.fits):
            self._console.say(f"making step {plan.steps[-1]} durable: {plan.reason}")
        self._drain.forget(plan.steps)
        if plan.abandon or not plan.steps:  # with nothing to write, it may be reading what nobody will resume from now
            self._drain.abandon()
        for step in set(self._memory.held_steps()) - set(plan.steps):
            self._memory.release(step)
        if newest is not None and not self._skipped:
            self._memory.hold(newest.step)

    def seconds_to_flush(self) -> float:
        """What making the newest image durable would take, by the rate of the last ones; 0 if nothing is known."""
        newest = self._memory.newest_step()
        if newest is None or self._drain.rate <= 0:
            return 0.0
        return sum(slot.info().size for slot in (self._memory.slots_of(newest) or {}).values()) / self._drain.rate

    def _newest_unsaved(self) -> Writing | None:
        """The newest image in memory, if it is not durable."""
        newest = self._memory.newest_step()
        if newest is None or (self.durable is not None and newest <= self.durable):
            return None
        slots = self._memory.slots_of(newest) or {}
        return Writing(newest, sum(slot.info().size for slot in slots.values()))

    def flushed(self) -> on.FlushEnded | None:
        """The end of a flush that was asked for, once."""
        unfinished = self._flushing and (not self._has_rescued() or self._drain.busy)
        if not self._flushing or (unfinished and self._clock() < self._flush_by):
            return None
        uploaded, remote_problem = self._finish_remote()
        if not uploaded:
            return None
        self._flushing = False
        if unfinished:
            self._drain.abandon()
        lost = self._newest_unsaved()
        late = lost is not None and (unfinished or self._skipped)
        if lost is None and self._rescuing in (None, self.durable):
            self._unsaved = None
        elif lost is not None and late:
            self._unsaved = f"there was no time to write step {lost.step}"
        else:
            self._unsaved = self._unsaved or "the memory snapshot was lost"
        return on.FlushEnded(self.durable, self._unsaved, late, remote_problem)

    def _finish_remote(self) -> tuple[bool, str | None]:
        """After the disk, the remote tier: whether its end need not be waited for, and what is missing there."""
        if self._remote is None:
            return True, None
        self._remote.finish(self.durable, self._flush_by)
        return self._remote.finished()

    def receive_remote(self) -> on.Event | None:
        """What the uploader has to say; returns what the policy core has to know of it."""
        event = self._remote.receive() if self._remote is not None else None
        if self._remote is not None and self._remote.fetched is not None and not self._flushing:
            self._restore_fetched(self._remote.fetched)
        if isinstance(event, on.SnapshotRestored) and self._remote is not None:
            self.identity, self.restored = self._remote.identity, self._remote.restored
            self._memory.keep_only(event.step)
        return event

    def _restore_fetched(self, step: int) -> None:
        """It was in the remote tier, and lies in the local one now."""
        self._look()
        self.restore(step)
        self._fetched = step

    def receive(self) -> on.Event | None:
        """What the drain has to say; returns what the policy core has to know of it."""
        return self._take(self._drain.receive())

    def receive_late(self) -> on.Event | None:
        """Likewise, of what did not come from the drain on this node."""
        return self._take(self._drain.late())

    def _take(self, answer: Answer | None) -> on.Event | None:
        if answer is None:
            return None
        self._note(answer)
        if isinstance(answer, Persisted):
            return self._persisted(answer)
        if isinstance(answer, TidyFailed):
            self._console.say(f"WARNING: discarded snapshots stay where they are: {answer.problem}")
        elif isinstance(answer, PersistFailed):
            self._console.say(f"WARNING: step {answer.step} could not be made durable: {answer.problem}")
            self._unsaved = answer.problem
            self._memory.release(answer.step)
        elif isinstance(answer, Restored):
            self.identity, self.restored = answer.identity, answer.divergence
            self._console.say(f"step {answer.step} verified and loaded from disk in {answer.seconds:.2f} s")
            self._memory.keep_only(answer.step)
            return on.SnapshotRestored(answer.step, durations=answer.durations)
        elif isinstance(answer, RestoreFailed):
            self._console.say(f"snapshot of step {answer.step} could not be loaded: {answer.problem}")
            return on.RestoreFailed(answer.step, answer.problem)
        elif isinstance(answer, Rejected):
            self._console.say(f"snapshot of step {answer.step} is corrupt: {answer.reason}; kept as {answer.kept_as}")
            self._look()
            # what was copied here from the remote tier would be copied and rejected for ever
            tier = on.Tier.REMOTE if answer.step == self._fetched else on.Tier.LOCAL
            return on.SnapshotRejected(answer.step, tier, answer.reason)
        return None

    def _note(self, answer: Answer) -> None:
        """What a snapshot says of divergence is much, and stands in its manifest."""
        told = replace(answer, divergence={}) if isinstance(answer, Restored) else answer
        self._journal.record("note", told, self._clock())

    def _persisted(self, answer: Persisted) -> on.Event | None:
        self._memory.release(answer.step)
        self._look()
        if answer.step not in self._committed():
            return None  # a rollback has discarded it meanwhile
        if self._remote is not None:
            self._remote.committed(answer.step)
        return on.SnapshotDurable(answer.step, answer.removed)
