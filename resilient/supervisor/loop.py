"""The supervisor: gathers events, asks the policy core, carries out its decisions.

One thread, one loop, no blocking call: what could block is done by the forkserver and the drain. Nothing is decided
here; the rules are in :mod:`resilient.policy.machine`.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from resilient.errors import ExitCode
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.state import Phase, RunState
from resilient.protocol.board import Command, Word
from resilient.protocol.parent import kill_orphans
from resilient.supervisor.board_watch import BoardWatch
from resilient.supervisor.console import Console
from resilient.supervisor.divergence_sensor import DivergenceSensor, JudgedMetrics
from resilient.supervisor.diverging import Diverging
from resilient.supervisor.drain import Drain
from resilient.supervisor.dumping import StackDumps
from resilient.supervisor.exits import Ends, failure_of
from resilient.supervisor.journal import Journal, plain
from resilient.supervisor.launcher import Exited, Failed, Launched, Launcher
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.opening import Opening
from resilient.supervisor.other_nodes import NobodyElse, OtherNodes
from resilient.supervisor.outside import Outside
from resilient.supervisor.persistence import Persistence
from resilient.supervisor.recorder import Recorder
from resilient.supervisor.remote import RemoteCopies
from resilient.supervisor.replaying import Replay
from resilient.supervisor.round_logs import delete_old_rounds
from resilient.supervisor.round_output import RoundOutput
from resilient.supervisor.rounds import Rounds, in_words
from resilient.supervisor.scheduler import Needed, Scheduler, Unscheduled
from resilient.supervisor.signals import SignalQueue
from resilient.supervisor.sources import Sources
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.tracking import ENDED, Tracking
from resilient.supervisor.unmodified import UnmodifiedScript
from resilient.supervisor.uploads import Uploads
from resilient.supervisor.witness import Witness

_POLL_SECONDS = 0.05
_EARLY = 0.2
_DUMP_POLL_SECONDS = 0.01  # while stacks are being written, which takes hundredths of a second


class Supervisor:
    """Supervises one run until it ends on this node. Its collaborators are passed in; it closes none of them.

    :ivar memory_is_durable: when the run ended here, the shared memory held nothing that is not on disk as well.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        memory: RunMemory,
        launcher: Launcher,
        drain: Drain,
        uploads: Uploads | None = None,
        signals: SignalQueue,
        witness: Witness,
        tracking: Tracking,
        journal: Journal,
        console: Console,
        clock: Callable[[], float],
        environment: Mapping[str, str] | None = None,
        scheduler: Scheduler | None = None,
        others: OtherNodes | None = None,
    ) -> None:
        """Nothing is done yet.

        :param environment: marks what we start as ours.
        :param others: the other nodes of the run, where there are any.
        """
        self._others: OtherNodes = others or NobodyElse(spec.policy.ranks)
        self._spec = spec
        self._scheduler = scheduler or Unscheduled(spec.policy.stop)
        self._memory = memory
        self._launcher = launcher
        self._drain = drain
        self._uploads = uploads
        self._tracking = tracking
        self._signals = signals
        self._witness = witness
        self._journal = journal
        self._console = console
        self._clock = clock
        self._sensor = DivergenceSensor(spec.policy.divergence)
        self._metrics = JudgedMetrics(spec.paths.metrics, self._sensor)
        self._script = UnmodifiedScript(spec, self._metrics, console.say)
        self._ends = Ends(self._script, witness)
        self._state = RunState(settings=spec.policy)
        self._recorder = Recorder(journal, self._state)
        self._events: deque[on.Event] = deque()
        self._sources = Sources(self._connections)
        self._opening = Opening(spec, clock)
        self._output = RoundOutput(spec, console, clock)
        self._boards = BoardWatch(memory, self._metrics, journal=journal, console=console, clock=clock)
        self._outside = Outside(spec, memory, console, clock=clock, latest=lambda: self._boards.latest)
        self._rounds = Rounds(spec, memory, self._others)
        self._dumps = StackDumps(spec.paths, console, clock)
        self._remote = None
        self._ending: do.EndRun | None = None
        self.memory_is_durable = False
        self._forming: do.FormGroup | None = None  # when what would be forgotten by that is durable
        if uploads is not None:
            self._remote = RemoteCopies(uploads, spec.paths, journal=journal, console=console, clock=clock)
        self._persistence = Persistence(
            spec,
            memory=memory,
            drain=drain,
            remote=self._remote,
            journal=journal,
            console=console,
            clock=clock,
            durations=lambda: self._state.durations,
            divergence=self._divergence_at,
            others=self._others,
        )
        self._diverging = Diverging(
            spec,
            memory=memory,
            persistence=self._persistence,
            sensor=self._sensor,
            console=console,
            clock=clock,
            feed=self._feed,
            start_replay=lambda window: Replay(
                spec.paths, window, now=clock(), environment=environment or {}, kill_orphans=self._kill_orphans
            ),
        )
        self._handlers: dict[type[do.Decision], Callable[[Any], None]] = {
            do.ListSnapshots: lambda _: self._answer_listing(),
            do.RestoreSnapshot: self._restore_snapshot,
            do.LaunchRound: self._launch_round,
            do.AskWorkers: self._ask_workers,
            do.RegroupWorkers: self._regroup_workers,
            do.SignalWorkers: self._signal_workers,
            do.KillWorkers: self._kill_workers,
            do.DumpStacks: self._dump_stacks,
            do.ReportStraggler: lambda decision: console.say(str(decision.straggler)),
            do.AbandonRestore: self._abandon_restore,
            do.FlushMemory: self._flush_memory,
            do.DiscardMemory: lambda _: memory.void(),
            do.RecordIncident: self._record_incident,
            do.EndRun: self._end_run,
            do.FormGroup: self._form_group,
            **self._diverging.handlers,
            do.DiscardAfter: self._discard_after,
        }

    def lineage_holds(self, step: int, round_number: int) -> bool:
        """Whether what that round did up to ``step`` is on the lineage."""
        return self._persistence.lineage.holds(step, round_number)

    def collect_metrics(self) -> None:
        """Write down what the ranks of this node have reported."""
        self._boards.collect_metrics(self._state.round)

    def run(self) -> ExitCode:
        """Supervise until the run ends on this node."""
        try:
            self._boards.adopt(self._opening.last_round)  # what a killed predecessor's workers had reported
            self._persistence.adopt()
            self._others.open(self._feed, lambda: self._state)
            self._open()
            while self._state.phase is not Phase.ENDED:
                self._wait(_DUMP_POLL_SECONDS if self._dumps.busy else _POLL_SECONDS)
                self._poll()
                self._sources.look_again()
        finally:
            for part in (self._sources, self._diverging, self._rounds, self._metrics, self._output, self._script):
                part.close()
        assert self._ending is not None  # noqa: S101  the phase ENDED is only entered with one
        return self._ending.exit_code

    def _wait(self, seconds: float) -> None:
        """Until something has happened here, or so long; what happens elsewhere is passed on meanwhile."""
        until = self._clock() + seconds
        while self._state.phase is not Phase.ENDED:
            pace = self._others.pace
            self._sources.handle(max(0.0, min(until - self._clock(), pace)))
            self._others.tick()
            # what is due in a moment is done now: to be woken costs more than to do it
            if pace == math.inf or self._clock() >= until - _EARLY * seconds:
                return

    def _open(self) -> None:
        opened = self._opening.event(self._memory, self._persistence, self._remote, self._diverging)
        if opened is not None:
            self._feed(opened)

    def _connections(self) -> dict[Any, Callable[[], None]]:
        """What is to be read when it is readable, and by whom."""
        handlers: dict[Any, Callable[[], None]] = {
            **self._tracking.connections(),
            self._signals: self._on_signal,
            self._launcher.connection: self._on_launcher,
            self._drain.connection: self._on_drain,
        }
        if self._uploads is not None:
            handlers[self._uploads.connection] = self._on_uploads
        return {**handlers, **self._others.connections()}

    # --- events

    def _feed(self, event: on.Event) -> None:
        """Put an event through the policy core, and whatever follows from carrying out its decisions."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # we are called from a decision of an earlier event, whose loop below goes on with this one
        while self._events:
            event, now, before = self._events[0], round(self._clock(), 6), self._state.phase
            self._state, decisions = self._recorder.decide(self._state, event, now)
            for decision in decisions:
                self._handlers[type(decision)](decision)
            if self._state.phase is not before and self._state.phase is not Phase.ENDED:
                self._outside.write(self._state, self._state.phase.value)
            self._events.popleft()

    def _on_signal(self) -> None:
        for number in self._signals.take():
            notice = self._scheduler.signalled(number, stopping=self._state.stop is not None)
            if notice is not None:
                self._console.say(notice.reason)
                if self._state.stop is not None and self._others.was_asked_first():
                    self._feed(on.GraceKnown(notice.grace))
                else:
                    self._feed(on.StopRequested(notice.kind, notice.grace, patient=notice.patient))

    def _heed_scheduler(self) -> None:
        """What it has found out: that the run has to leave, or how long there really is."""
        notice = self._scheduler.poll(self._needed)
        if notice is None:
            return
        self._console.say(notice.reason)
        if self._state.stop is None:
            self._feed(on.StopRequested(notice.kind, notice.grace, patient=notice.patient))
        else:
            self._feed(on.GraceKnown(notice.grace))

    def _needed(self) -> Needed:
        return Needed(self._state.durations.get("step", 0.0), self._persistence.seconds_to_flush())

    def _on_launcher(self) -> None:
        self._on_signal()  # a SIGTERM to the whole job comes before the exits that it causes
        forkserver = self._launcher.pid
        reports = self._launcher.receive()
        if self._launcher.pid != forkserver:  # it died, and what its workers had started is ours to end
            self._kill_orphans()
        for report in reports:
            if isinstance(report, Launched):
                self._witness.launched(report.rank, report.pid)
                self._journal.write("note", "worker launched", self._clock(), rank=report.rank, pid=report.pid)
            elif isinstance(report, Exited):
                self._feed(self._worker_exited(report))
            elif isinstance(report, Failed):
                self._launch_failed(report)

    def _kill_orphans(self) -> None:
        uploads = self._uploads.pid if self._uploads is not None else None
        pids = [self._launcher.pid, self._drain.pid, self._diverging.replay_pid, self._tracking.pid, uploads]
        kill_orphans([*self._others.pids, *(pid for pid in pids if pid is not None)])

    def _divergence_at(self, step: int) -> Mapping[str, Any]:
        """What the manifest of a snapshot of ``step`` is to say of divergence."""
        self.collect_metrics()  # those of the step are on the board before it is held
        return self._diverging.told_at(step)

    def _launch_failed(self, report: Failed) -> None:
        failure = failure_of(report)
        lost = self._state.live & ({*self._memory.ranks} if report.rank is None else {report.rank})
        if self._state.phase is Phase.STARTING and lost == self._state.live:
            self._feed(on.LaunchFailed(failure))
            return
        for rank in sorted(lost):  # the others are there; or the run was to stop before any was
            self._feed(on.WorkerExited(rank, self._memory.boards[rank][Word.STEP], failure))

    def _on_drain(self) -> None:
        event = self._persistence.receive()
        if event is not None:
            self._feed(event)

    def _on_late_answers(self) -> None:
        while (event := self._persistence.receive_late()) is not None:
            self._feed(event)

    def _on_uploads(self) -> None:
        event = self._persistence.receive_remote()
        if event is not None:
            self._feed(event)

    def _poll(self) -> None:
        if self._state.phase is Phase.NEW:
            self._open()
        self.collect_metrics()
        self._diverging.judge(self._state)
        self._heed_scheduler()
        self._witness.watch()
        if (progressed := self._boards.progress(self._state.live)) is not None:
            self._feed(progressed)
        if (dumped := self._others.dumped(self._dumps.poll(self._state))) is not None:
            self._feed(dumped)
        self._launcher.check()
        self._output.pass_on()
        self._outside.look(self._state)
        self._poll_script()
        self._diverging.poll(self._state)
        self._boards.pass_on_requests()
        self._boards.keep_ranks_together(self._state)
        self._boards.note_interval()
        if (times := self._boards.look_at_times(self._state)) is not None:
            self._feed(times)
        self._on_late_answers()
        self._persistence.persist_held(self._state.round)
        if (flushed := self._persistence.flushed()) is not None:
            self._feed(self._script.describe(flushed))
        if self._state.phase is Phase.CHOOSING:
            self._answer_listing()
        self._tracking.poll()
        self._feed(on.Tick())

    def _poll_script(self) -> None:
        boards, live = self._memory.boards, self._state.live
        if 0 not in live or (progressed := self._script.poll(boards[0])) is None:
            return
        for rank in sorted(live):
            if rank == 0 or self._script.speaks_for(boards[rank]):
                self._feed(replace(progressed, rank=rank))

    def _worker_exited(self, report: Exited) -> on.WorkerExited:
        self._boards.rank_ended(report.rank, self._state)
        self._output.ended(report.rank)
        self._memory.void_growing(report.rank)
        board = self._memory.boards[report.rank]
        if report.rank == 0:
            self._script.poll(board, last=True)
        self._diverging.judge(self._state)
        step, asked = self._script.step(board), self._state.are_to_leave
        self._journal.write("note", "worker exited", self._clock(), rank=report.rank, code=report.code, step=step)
        if not asked and self._ends.asks_for_requeue(report, board):
            self._console.say(f"rank {report.rank} ended with exit code {report.code}, which asks for a requeue")
            self._feed(on.StopRequested(on.StopKind.PREEMPTION, self._spec.policy.stop.grace_seconds))
        exited = self._ends.read(report, board, asked=asked)
        if report.rank == 0:
            self._script.ended(board, failed=exited.failure is not None)
        return exited

    # --- decisions

    def _answer_listing(self) -> None:
        """Say what could be resumed from, or wait: the remote tier, or other nodes, may still have to be heard of."""
        if self._forming is not None and not self._formed(self._forming):
            return
        ranks = self._others.listing()
        if isinstance(ranks, on.NodesSeen):
            self._feed(ranks)
        elif ranks is not None and (listed := self._persistence.list_snapshots()) is not None:
            known = ranks if ranks != self._spec.policy.ranks else None
            self._feed(replace(listed, ranks=known, peer_step=self._others.peer_step()))

    def _form_group(self, decision: do.FormGroup) -> None:
        self._forming = decision
        self._answer_listing()

    def _formed(self, decision: do.FormGroup) -> bool:
        if self._others.forgets(decision) and not self._persistence.rescued(self._state.round):
            return False
        self._forming = None
        self._others.form(decision)
        return True

    def _restore_snapshot(self, decision: do.RestoreSnapshot) -> None:
        if decision.tier is on.Tier.PEER:
            self._others.restore(decision.step)
        else:
            self._persistence.restore(decision.step, decision.tier)

    def _launch_round(self, decision: do.LaunchRound) -> None:
        start = self._script.begin_round(decision.round)
        self._console.say(in_words(decision, start, self._state.lineage))
        if start.source:
            self._journal.write("note", "own checkpoint", self._clock(), step=start.step, source=start.source)
        known = (self._opening.history, self._state.lineage, self._persistence.identity)
        ranks = self._state.ranks
        specs = self._rounds.prepare(decision, start, *known, ranks=ranks)
        self._diverging.begin_round(decision, start.step)
        self._boards.begin_round()
        self._witness.begin_round(decision.round, range(ranks))
        self._output.follow(decision.round)
        if deleted := delete_old_rounds(self._spec.paths, self._spec.logs.keep_rounds):
            self._journal.write("note", "old logs deleted", self._clock(), rounds=deleted)
        self._others.launch(decision, [spec for spec in specs if spec.rank not in self._memory.ranks])
        self._launcher.launch([spec for spec in specs if spec.rank in self._memory.ranks])
        if start.step:
            self._feed(on.WorkerProgressed(0, start.step, "startup"))

    def _ask_workers(self, decision: do.AskWorkers) -> None:
        self._have_them_leave()
        self._persistence.workers_leave(decision.gone_by, decision.flush_by)

    def _regroup_workers(self, decision: do.RegroupWorkers) -> None:
        more = ", ".join(node for node in decision.nodes if node not in self._state.group.nodes)
        self._console.say(f"{more} can train too: the workers leave at the next step, and the group forms anew")
        self._have_them_leave()

    def _have_them_leave(self) -> None:
        for board in self._memory.boards.values():
            board[Word.COMMAND] = Command.LEAVE

    def _signal_workers(self, decision: do.SignalWorkers) -> None:
        number = signal.Signals[self._spec.worker.stop_signal] if self._spec.worker.unmodified else signal.SIGTERM
        why = "" if self._spec.worker.unmodified else "no step boundary yet: "
        self._console.say(f"{why}sending {number.name} to the workers")
        self._launcher.signal(number)
        self._others.signal(number)

    def _dump_stacks(self, decision: do.DumpStacks) -> None:
        self._others.dump(decision, self._state)
        here = replace(decision, ranks=tuple(rank for rank in decision.ranks if rank in self._memory.ranks))
        self._dumps.begin(here, self._state, self._launcher.workers, self._launcher.pid)

    def _abandon_restore(self, decision: do.AbandonRestore) -> None:
        if decision.tier is on.Tier.PEER:
            self._others.abandon_restore()
        else:
            self._persistence.abandon_restore(decision.tier)

    def _kill_workers(self, decision: do.KillWorkers) -> None:
        self._console.say(f"killing the workers: {decision.reason}")
        self._witness.before_kill()
        self._launcher.kill()
        self._others.kill(decision.reason)

    def _flush_memory(self, decision: do.FlushMemory) -> None:
        self._persistence.flush(self._state.round, decision.by)

    def _discard_after(self, decision: do.DiscardAfter) -> None:
        self._others.gone_back(decision.step)
        self._diverging.handlers[do.DiscardAfter](decision)

    def _record_incident(self, decision: do.RecordIncident) -> None:
        incident = decision.incident
        where = f"rank {incident.rank}" if incident.rank is not None else "run"
        self._output.explain(incident)
        failure = incident.failure
        of_workers = self._state.failure is not None and self._state.failure.number == incident.number
        place = self._witness.record(decision, self._state, of_workers=of_workers)
        self._console.say(
            f"incident {incident.number}: {where} after step {incident.step}: "
            f"{failure.failure_class.value} ({failure.told}){incident.followed} → {incident.remedy}; see {place}"
        )

    def _end_run(self, decision: do.EndRun) -> None:
        reached = self._state.step if self._spec.worker.unmodified else self._persistence.durable or 0
        decision = self._ending = self._scheduler.conclude(decision, reached)
        self._console.say(decision.diagnosis)
        self._journal.write("note", ENDED, self._clock(), **plain(decision))
        self.memory_is_durable = self._persistence.memory_is_durable
        self._others.end(decision, durable=self.memory_is_durable)
        state = "finished" if decision.exit_code is ExitCode.FINISHED else "ended"
        self._outside.write(self._state, state, decision)
        self._tracking.end(self._state)
