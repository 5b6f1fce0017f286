"""From a checked configuration to a supervised run of several nodes: the same on each of them, whoever leads."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from resilient.errors import ExitCode
from resilient.nodes import left_reports
from resilient.nodes.address import own_address
from resilient.nodes.agent import Agent, Outcome
from resilient.nodes.agreed_version import agreed_version
from resilient.nodes.channel import Channel
from resilient.nodes.counting import counting
from resilient.nodes.ending import end_workers
from resilient.nodes.greeting import Greeting, greet
from resilient.nodes.hub import Handlers, Hub
from resilient.nodes.leading import Fenced, Leading
from resilient.nodes.node_replicas import NodeReplicas
from resilient.nodes.peer_memory import PeerMemory
from resilient.nodes.replicas import Replicas
from resilient.nodes.world_drain import WorldDrain
from resilient.nodes.world_memory import WorldMemory
from resilient.policy.decisions import EndRun
from resilient.protocol.election import Election, Follow, Lead, is_first_of_job
from resilient.protocol.environment import shared_by
from resilient.protocol.lock import RunLock
from resilient.protocol.parent import adopt_orphans, kill_orphans
from resilient.protocol.paths import hostname, node_name
from resilient.protocol.scratch import Scratch
from resilient.protocol.terms import Term, Terms
from resilient.snapshot import catalog
from resilient.supervisor import leftovers, start
from resilient.supervisor.console import Console
from resilient.supervisor.drain import Drain
from resilient.supervisor.incident_files import IncidentFiles
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.launcher import Launcher
from resilient.supervisor.loop import Supervisor
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.scheduler import Scheduler, Unscheduled
from resilient.supervisor.signals import SignalQueue
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.status import Status
from resilient.supervisor.time_notes import BEGAN, ENDED, age
from resilient.supervisor.tracking import Tracking
from resilient.supervisor.uploads import Uploads
from resilient.supervisor.witness import Witness

_LOOK_SECONDS = 0.05

RecordConfig = Callable[[Journal], bool]


def supervise_group(
    spec: RunSpec, record_config: RecordConfig, console: Console, scheduler: Scheduler | None = None
) -> ExitCode:
    """Take part in the run until it ends on this node: lead it, or do what the leader says.

    The parameters and errors are those of :func:`resilient.supervisor.start.supervise`.
    """
    with start.full_disk_named(spec.paths), ExitStack() as stack:
        node = _Node(spec, record_config, console, scheduler or Unscheduled(spec.policy.stop), stack)
        code = node.run()
        node.note_end(code)
        return code


class _Node:
    """The supervisor of one node, through all terms."""

    def __init__(
        self, spec: RunSpec, record_config: RecordConfig, console: Console, scheduler: Scheduler, stack: ExitStack
    ) -> None:
        self._name = node_name()
        self._record_config = record_config
        self._console = console
        self._scheduler = scheduler
        self._signals = SignalQueue()
        stack.callback(self._signals.close)
        stack.callback(scheduler.leave)
        self._own(spec, stack)
        self._settle(spec)
        self._place = RunMemory.place(spec.paths, spec.snapshot.memory_dir)
        leftovers.clear(self._place.parent, self._place, console.say)
        self._memory: RunMemory | None = None
        self._has_followed = False
        self._is_durable = False
        adopt_orphans()
        stack.callback(kill_orphans, keep=())
        stack.callback(self._leave_memory)
        self._start_helpers(stack)
        self._terms = Terms(spec.paths.terms, self._name)
        self._found = Status.read(spec.paths.status)
        # one that is finished goes on only if it is to do more than it was
        self._reopened = self._found is not None and self._found.finished and record_config(self._journal)
        self._peers = self._start_peers(stack)

    def _own(self, spec: RunSpec, stack: ExitStack) -> None:
        """Take this node's lock; end what an earlier supervisor of it has left."""
        paths, strays = spec.paths, list[int]()
        start.require_what_is_named(spec)
        paths.create()
        lock = RunLock(paths.lock, hostname(), end_remains=lambda: strays.extend(start.kill_strays_of(paths)))
        stack.callback(lock.release)
        paths.clear_fresh()
        self._lock = lock.fileno()
        self._journal = start.open_journal(paths)
        stack.callback(self._journal.close)
        self._journal.write("note", BEGAN, time.monotonic(), host=hostname(), age=age())
        if strays := [*strays, *start.kill_strays_of(paths)]:
            self._console.say(f"killed what an earlier supervisor of this node had left: {', '.join(map(str, strays))}")
        self._console.say(f"run {paths.run_id} in {paths.root}, node {self._name}")

    def _settle(self, spec: RunSpec) -> None:
        """What of the run is known only now; and whether it may be on this machine."""
        paths, nodes = spec.paths, spec.policy.nodes
        durable = max(catalog.committed_steps(paths.snapshots), default=0)
        known = None if spec.worker.unmodified else durable
        self._scheduler.begin(read_journal(paths.journal), known, self._journal, self._console.say)
        replaced = nodes is not None and nodes.spares > 0  # then another node takes the place of one that is refused
        whom = Unscheduled(spec.policy.stop) if replaced else self._scheduler
        start.require_trusted_node(spec, self._console, whom, durable)
        self._version_of_all = agreed_version(spec.worker, spec.snapshot, spec.train)
        spec = start.warm_or_cold(spec, self._console)
        count = 1 if nodes is None else nodes.count
        self._spec = replace(
            spec,
            policy=replace(spec.policy, seed=paths.run_id, rolls_back=not spec.worker.unmodified),
            versions=start.installed_versions(),
            allow_reshard=spec.allow_reshard or (nodes is not None and nodes.shrinks),
            snapshot=replace(spec.snapshot, slots=spec.peer.slots(spec.snapshot, count)),
        )

    def _start_helpers(self, stack: ExitStack) -> None:
        """What this node needs, whoever leads."""
        spec, paths = self._spec, self._spec.paths
        self._ours = start.marked(paths)
        self._launcher = Launcher(
            spec.worker.preload,
            lock=self._lock,
            log=self._log("forkserver"),
            scratch=Scratch(f"{paths.identity()}@{self._name}"),
            environment={**shared_by(spec.worker.ranks), **spec.worker.env, **self._ours},
        )
        stack.callback(self._launcher.close)
        files = IncidentFiles(paths, self._console.say)
        self._witness = Witness(paths, files, clock=time.monotonic, environment=spec.worker.env, versions=spec.versions)
        stack.callback(self._witness.close)
        self._address, self._handlers = own_address(spec.group.host), Handlers()
        self._token = secrets.token_hex(32)
        self._hub = Hub(
            self._address,
            self._token,
            self._handlers,
            silent_seconds=spec.group.silent_seconds,
            clock=time.monotonic,
            port=spec.group.port,
        )
        stack.callback(self._hub.close)

    def _start_peers(self, stack: ExitStack) -> NodeReplicas | None:
        """Peer memory's part on this node; None where it has none."""
        spec = self._spec
        if not spec.peer.enabled or spec.policy.nodes is None:
            return None
        replicas = Replicas(
            self._place,
            host=self._address,
            timeout=spec.peer.timeout_seconds,
            lock=self._lock,
            log=self._log("peer"),
        )
        peers = NodeReplicas(self._place, replicas, spec.paths.memory)
        stack.callback(peers.close)
        return peers

    def _log(self, name: str) -> Path:
        return self._spec.paths.root / "logs" / f"{name}-{self._name}.log"

    def _leave_memory(self) -> None:
        if self._memory is None:
            if self._is_durable:  # there may be some of the time when this node had ranks
                leftovers.remove_own(self._place, self._spec.paths)
        elif self._is_durable:
            self._memory.remove()
        else:
            self._console.say(f"this node's part of the newest state is still in {self._memory.directory}")
            self._memory.close()

    def note_end(self, code: ExitCode) -> None:
        self._journal.write("note", ENDED, time.monotonic(), exit_code=int(code))

    # --- from term to term

    def run(self) -> ExitCode:
        election = Election(
            self._terms,
            self._name,
            f"{self._address}:{self._hub.port}",
            self._token,
            lease_seconds=self._spec.group.lease_seconds,
            clock=time.monotonic,
            preferred=self._should_lead,
        )
        told: object = None
        while True:
            if (ended := self._ended()) is not None or (ended := self._asked_to_stop()) is not None:
                return ended
            role = election.poll()
            if isinstance(role, Lead):
                code = self._lead(role.term)
            elif isinstance(role, Follow):
                code = self._follow(role.term)
            else:
                code = None
                if role != told:
                    told = role
                    self._console.say(str(role)) if role else None
                time.sleep(_LOOK_SECONDS)
            if code is not None:
                return code

    def _ended(self) -> ExitCode | None:
        """How the run ended, where it is finished, or where its leader has ended it and we have not heard of that."""
        status = Status.read(self._spec.paths.status)
        if status is None or status.exit_code is None:
            return None
        if status == self._found and (self._reopened or not status.finished):
            return None
        self._is_durable = status.finished
        hint = " Another run.id begins a new run." if status.finished else ""
        self._console.say(f"run {self._spec.paths.run_id} has ended: {status.diagnosis}{hint}")
        return next((code for code in ExitCode if code == status.exit_code), ExitCode.REQUEUE)

    def _asked_to_stop(self) -> ExitCode | None:
        """While there is no leader whom it could be told."""
        for number in self._signals.take():
            notice = self._scheduler.signalled(number, stopping=False)
            if notice is not None:
                self._console.say(notice.reason)
                preempted = notice.kind.value == "preemption"
                code = ExitCode.REQUEUE if preempted else ExitCode.TERMINATED
                ending = EndRun(code, "asked to stop while there was no leader; the same command resumes")
                return self._scheduler.conclude(ending, 0).exit_code
        return None

    # --- leading

    def _lead(self, term: Term) -> ExitCode | None:
        """Decide for all until the run ends; None when another node has taken over."""
        self._console.say(f"term {term.number}: this node leads, at {term.address}")
        before = replace(term, number=term.number - 1)
        takeover = term.number > 1 and not self._terms.is_closed(before)
        spec = replace(self._spec, lineage=start.lineage_of(self._spec.paths), takeover=takeover)
        self._record_config(self._journal)
        if self._memory is not None:
            self._memory.close()
        with ExitStack() as stack:
            memory = WorldMemory(
                self._place,
                range(spec.worker.ranks),
                spec.snapshot.slots,
                spec.paths.identity(),
                spec.paths.root,
                post=self._hub.post,
                term=term.number,
            )
            self._memory = memory
            left_reports.write_down(self._place, spec.paths, memory.ranks)
            drain = WorldDrain(
                spec.paths.snapshots,
                lock=self._lock,
                log=self._log("drain"),
                clock=time.monotonic,
                node_of=memory.node_of,
                post=self._hub.post,
                term=term.number,
            )
            stack.callback(drain.close)
            uploads = None
            if spec.remote.enabled:
                uploads = Uploads(
                    spec.remote, spec.paths.snapshots, spec.paths.run_id, lock=self._lock, log=self._log("uploads")
                )
                stack.callback(uploads.close)
            tracking = Tracking(
                spec.trackers, spec.paths, journal=self._journal, console=self._console, clock=time.monotonic
            )
            stack.callback(tracking.close)
            peers = None
            if self._peers is not None:
                peers = PeerMemory(
                    spec.peer,
                    self._peers,
                    self._hub,
                    self._handlers,
                    node=self._name,
                    token=self._token,
                    term=term.number,
                    memory=memory,
                    journal=self._journal,
                    console=self._console,
                    clock=time.monotonic,
                )
            leading = Leading(
                self._hub,
                self._handlers,
                node=self._name,
                address=self._address,
                per_node=spec.worker.ranks,
                version=self._version(),
                meeting_place=spec.paths.terms,
                memory=memory,
                drain=drain,
                journal=self._journal,
                console=self._console,
                reign=self._terms.reign(term, lease_seconds=spec.group.lease_seconds),
                peers=peers,
            )
            stack.callback(leading.close)
            supervisor = Supervisor(
                spec,
                memory=memory,
                launcher=self._launcher,
                drain=drain,
                uploads=uploads,
                signals=self._signals,
                witness=self._witness,
                tracking=tracking,
                journal=self._journal,
                console=self._console,
                clock=time.monotonic,
                environment=self._ours,
                scheduler=self._scheduler,
                others=leading,
            )
            memory.counts = counting(supervisor.lineage_holds, spec.paths.snapshots)
            if peers is not None:
                peers.follow(memory.counts, supervisor.collect_metrics)
            try:
                code = supervisor.run()
            except Fenced as fenced:
                self._console.say(f"term {term.number} is over: {fenced}")
                self._journal.write("note", "fenced", time.monotonic(), reason=str(fenced))
                leading.resign()
                self._end_workers()
                memory.close()
                self._memory = None
                return None
            self._is_durable = supervisor.memory_is_durable
        self._terms.close(term)
        return code

    def _end_workers(self) -> None:
        end_workers(self._launcher)
        kill_orphans({self._launcher.pid, *([self._peers.pid] if self._peers is not None else [])})
        if self._memory is not None:
            self._memory.void_growing()

    def _should_lead(self) -> bool:
        """Whether this node takes the lead before others do. Where a leader is lost, that is a spare: it is given the
        ranks of the one that is gone, and each of the others keeps those that it has in memory.
        """
        return self._memory is None if self._has_followed else is_first_of_job()

    # --- following

    def _follow(self, term: Term) -> ExitCode | None:
        """Do what the leader of that term says; None when it is lost, or cannot be reached."""
        spec = self._spec
        channel = greet(
            term,
            Greeting(self._name, spec.worker.ranks, self._version(), self._ranks_in_memory()),
            silent_seconds=spec.group.silent_seconds,
            interrupted=self._signals.pending,
        )
        if channel is None:
            time.sleep(_LOOK_SECONDS)
            return None
        self._console.say(f"term {term.number}: node {term.node} leads")
        self._has_followed = True
        outcome = self._obey(channel)
        if outcome.exit_code is not None:
            self._is_durable = outcome.durable
        return outcome.exit_code

    def _obey(self, channel: Channel) -> Outcome:
        spec = self._spec
        left_reports.write_down(self._place, spec.paths, () if self._memory is None else self._memory.ranks)
        drain = Drain(spec.paths.snapshots, lock=self._lock, log=self._log("drain"), sweeps=False)
        agent = Agent(
            spec,
            channel,
            memory=self._memory,
            open_memory=self._open_memory,
            launcher=self._launcher,
            drain=drain,
            witness=self._witness,
            signals=self._signals,
            scheduler=self._scheduler,
            journal=self._journal,
            console=self._console,
            peers=self._peers,
        )
        try:
            return agent.run()
        finally:
            self._memory = agent.memory
            channel.close()
            drain.close()

    def _open_memory(self, ranks: range) -> RunMemory:
        spec = self._spec
        return RunMemory(self._place, ranks, spec.snapshot.slots, spec.paths.identity(), spec.paths.root)

    def _ranks_in_memory(self) -> tuple[int, ...]:
        """Those of which this node has something in memory."""
        if self._memory is not None:
            return tuple(self._memory.ranks)
        return leftovers.ranks_in(self._place, self._spec.paths)

    def _version(self) -> str:
        return self._version_of_all
