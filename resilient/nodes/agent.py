"""A node that does what the leader says: it owns the workers and the memory of its ranks, and decides nothing.

It is the same process that would lead if it had claimed the term, so it has the same means: a warm forkserver, a drain,
boards and slots. When the leader is lost it kills its workers at once, for another group may go on without them; what
is in memory stays for whoever leads next.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resilient.errors import ExitCode, ResilientError
from resilient.nodes.channel import Channel, ChannelClosed, Message
from resilient.nodes.ending import end_workers
from resilient.nodes.look_pace import LookPace
from resilient.nodes.mirror import Shown
from resilient.nodes.node_replicas import NodeReplicas
from resilient.nodes.world_drain import told
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.hang import HangWatch
from resilient.policy.state import Phase, RunState
from resilient.protocol.board import Command, Word
from resilient.protocol.board import now as moment
from resilient.protocol.decoding import decode
from resilient.protocol.environment import PLAN
from resilient.protocol.launch import LaunchSpec
from resilient.protocol.metrics_log import MetricsLog
from resilient.protocol.parent import kill_orphans
from resilient.protocol.past import Past
from resilient.protocol.plan import RoundPlan
from resilient.protocol.world_sum import World
from resilient.protocol.world_view import WorldView
from resilient.supervisor.console import Console
from resilient.supervisor.drain import Drain
from resilient.supervisor.dumping import StackDumps
from resilient.supervisor.exits import Ends, failure_of
from resilient.supervisor.journal import Journal, plain
from resilient.supervisor.launcher import Exited, Failed, Launched, Launcher
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.scheduler import Needed, Notice, Scheduler
from resilient.supervisor.signals import SignalQueue
from resilient.supervisor.sources import Sources
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.time_notes import SPENT, spent
from resilient.supervisor.unmodified import UnmodifiedScript
from resilient.supervisor.witness import Witness

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Outcome:
    """How following a leader ended.

    :param exit_code: of the run on this node; None when the leader was lost.
    :param durable: nothing that is in memory here is needed any more.
    :param why: in words.
    """

    exit_code: ExitCode | None
    durable: bool = False
    why: str = ""


class Agent:
    """Follows one leader until the run ends or the leader is lost.

    :ivar memory: of the ranks that this node has; None while it has none. It may be another one than at the beginning.
    """

    def __init__(
        self,
        spec: RunSpec,
        channel: Channel,
        *,
        memory: RunMemory | None,
        open_memory: Callable[[range], RunMemory],
        launcher: Launcher,
        drain: Drain,
        witness: Witness,
        signals: SignalQueue,
        scheduler: Scheduler,
        journal: Journal,
        console: Console,
        peers: NodeReplicas | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._peers = peers
        self._channel = channel
        self.memory = memory
        self._open_memory = open_memory
        self._launcher = launcher
        self._drain = drain
        self._witness = witness
        self._signals = signals
        self._scheduler = scheduler
        self._journal = journal
        self._console = console
        self._clock = clock
        self._metrics = MetricsLog(spec.paths.metrics)
        self._script = UnmodifiedScript(spec, self._metrics, console.say)
        self._ends = Ends(self._script, witness)
        self._dumps = StackDumps(spec.paths, console, clock)
        self._dump_state = RunState()
        self._shown = Shown()
        self._pace = LookPace(clock, glance_seconds=_POLL_SECONDS)
        self._told_ranks: range | None = None  # those of which the leader expects news
        self._view: WorldView | None = None
        self._plan = ""
        self._live: set[int] = set()
        self._round = -1
        self._done = 0
        self._stopping = False
        self._outcome: Outcome | None = None
        self._sources = Sources(self._connections)
        self._handlers: Mapping[str, Callable[[Message], None]] = {
            "assign": self._assign,
            "board": self._write_board,
            "slot": self._change_slot,
            "renew_boards": self._renew_boards,
            "plan": self._write_plan,
            "world": self._see_world,
            "launch": self._launch,
            "signal": lambda message: self._launcher.signal(signal.Signals(message["number"])),
            "kill": self._kill,
            "dump": self._dump,
            "persist_part": self._persist_part,
            "drop_part": lambda message: self._drop_part(int(message["step"])),
            "hurry": lambda _message: self._drain.hurry(),
            "restore": self._restore,
            "abandon_restore": lambda _message: self._drain.abandon_restore(),
            "end": self._end,
        }
        if peers is not None:
            peers.send = channel.send
            peers.before_lend = self._collect_metrics
            peers.use(memory)
            self._handlers = {**self._handlers, **dict.fromkeys(peers.operations, peers.hear)}
        else:
            told = {"op": "peer_open", "problem": "peer memory is not enabled on this node"}
            self._handlers = {**self._handlers, "peer_open": lambda _message: channel.send(told)}

    def run(self) -> Outcome:
        """Do what is said until there is nobody any more who says anything, or the run ends."""
        polled = 0.0
        try:
            if self._channel.has_kept:
                self._on_leader()
            while self._outcome is None:
                self._sources.handle(max(0.0, min(self._pace.seconds, polled + _POLL_SECONDS - self._clock())))
                now = self._clock()
                if now - polled >= _POLL_SECONDS:
                    polled = now
                    self._poll()
                    self._sources.look_again()
                if self._pace.due():
                    self._pace.looked(changed=self._tell_news(glance=self._pace.is_glance))
                self._channel.flush()
                self._channel.beat()
        except ChannelClosed as closed:
            self._lose_leader(str(closed))
        self._collect_metrics()
        self._sources.close()
        self._metrics.close()
        self._script.close()
        self._pace.close()
        if self._view is not None:
            self._view.close()
        assert self._outcome is not None  # noqa: S101  the loop ends with one, or with an exception that makes one
        return self._outcome

    def _connections(self) -> dict[Any, Callable[[], None]]:
        return {
            self._channel: self._on_leader,
            self._signals: self._on_signal,
            self._launcher.connection: self._on_launcher,
            self._drain.connection: self._on_drain,
            **self._pace.connections(),
            **({self._peers.connection: self._peers.receive} if self._peers is not None else {}),
        }

    @property
    def _helpers(self) -> set[int]:
        """Children that are no worker's."""
        return {self._launcher.pid, self._drain.pid, *([self._peers.pid] if self._peers is not None else [])}

    def _collect_metrics(self) -> None:
        if self.memory is not None:
            for rank, board in self.memory.boards.items():
                self._metrics.take_down(board, max(self._round, 0), rank)

    def _poll(self) -> None:
        if self._peers is not None:
            self._peers.poll()
        self._collect_metrics()
        self._witness.watch()
        self._launcher.check()
        dumped = self._dumps.poll(self._dump_state)
        if dumped is not None:
            self._channel.send({"op": "dumped", "accounts": plain(dumped)["accounts"]})
        self._heed_scheduler()

    # --- the leader

    def _on_leader(self) -> None:
        for message in self._channel.receive():
            self._done = int(message.get("#", self._done))
            handler = self._handlers.get(str(message.get("op")))
            if handler is not None:
                handler(message)

    def _tell_news(self, *, glance: bool = False) -> bool:
        """Whether there were any."""
        if self.memory is None or self._told_ranks != self.memory.ranks:
            return False
        news = self._news(self.memory, glance=glance)
        if not news["boards"] and not news["slots"]:
            return False
        self._channel.send({"op": "news", **news})
        return True

    def _tell_again(self, rank: int, slot: int | None = None) -> None:
        """The leader has written there, and does not believe what it was told before."""
        self._shown.forget(rank, slot)
        self._pace.heard()

    def _news(self, memory: RunMemory, *, glance: bool = False) -> dict[str, Any]:
        slots = {rank: arena.slots for rank, arena in memory.arenas.items()}
        boards, headers = self._shown.news(memory.boards, slots, glance=glance)
        return {"boards": boards, "slots": headers, "done": self._done, "at": moment()}

    def _lose_leader(self, why: str) -> None:
        """Another group may be going on without us by now: stop at once, and leave what is in memory as it is."""
        self._console.say(f"the leader is lost: {why}")
        self._journal.write("note", "leader lost", self._clock(), reason=why)
        self._end_workers("the leader is lost")
        self._drain.forget(())
        self._drain.abandon()
        self._outcome = Outcome(ExitCode.REQUEUE if self._stopping else None, why=why)

    def _end_workers(self, reason: str) -> None:
        if self._live:
            self._console.say(f"killing the workers: {reason}")
        self._witness.before_kill()
        end_workers(self._launcher, self._clock)
        kill_orphans(self._helpers)
        self._live.clear()
        if self.memory is not None:
            self.memory.void_growing()
            self._release_all()

    def _release_all(self) -> None:
        assert self.memory is not None  # noqa: S101  asked by the callers
        self.memory.release_all()
        if self._peers is not None:
            self._peers.use(self.memory)  # what counts as a copy stays lent

    def _end(self, message: Message) -> None:
        number, diagnosis = int(message["exit_code"]), str(message["diagnosis"])
        code = next(code for code in ExitCode if code == number)
        self._console.say(diagnosis)
        self._end_workers("the run ends")
        self._journal.write("note", "left with the leader", self._clock(), exit_code=int(code))
        self._outcome = Outcome(code, bool(message["durable"]), diagnosis)

    # --- ranks and their memory

    def _assign(self, message: Message) -> None:
        ranks = tuple(map(int, message["ranks"]))
        if self._live:
            self._end_workers("this node is given other ranks")
        self._collect_metrics()
        self._pace.watch(None)
        if not ranks:
            if self.memory is not None:
                self._console.say("this node is a spare now")
                self.memory.close()
                self.memory = None
            if self._peers is not None:
                self._peers.use(None)
            return
        wanted = range(ranks[0], ranks[-1] + 1)
        try:
            if self.memory is None or self.memory.ranks != wanted:
                if self.memory is not None:
                    self.memory.close()
                self.memory = self._open_memory(wanted)
        except ResilientError as error:
            raise ChannelClosed(f"it has no memory for its ranks: {error}") from error
        self.memory.void_growing()
        self._release_all()
        if not self.memory.belongs_to(int(message["world"])):
            self.memory.void()
        self.memory.keep_linked()
        self._view = self._view or WorldView.create(self.memory.directory)
        self._pace.watch(self.memory)
        self._shown = Shown()
        count = max(len(arena.slots) for arena in self.memory.arenas.values())
        past = self.memory.past
        told = {"ranks": ranks, "count": count, "past": None if past is None else past.to_json()}
        self._channel.send({"op": "assigned", **told, **self._news(self.memory)})
        self._told_ranks = wanted

    def _write_board(self, message: Message) -> None:
        rank = int(message["rank"])
        if self.memory is not None and rank in self.memory.boards:
            self.memory.boards[rank][Word(int(message["word"]))] = int(message["value"])
            self._tell_again(rank)

    def _change_slot(self, message: Message) -> None:
        rank, index = int(message["rank"]), int(message["index"])
        if self.memory is None or rank not in self.memory.arenas:
            return
        slot = self.memory.arenas[rank].slots[index]
        self._tell_again(rank, index)
        if slot.info().begun != message["begun"]:
            return  # it has become another image's meanwhile
        {"hold": slot.hold, "release": slot.release, "void": slot.void}[str(message["do"])]()

    def _renew_boards(self, _message: Message) -> None:
        if self.memory is None:
            return
        self._collect_metrics()
        self.memory.renew_boards()
        for rank in self.memory.ranks:
            self._tell_again(rank)
        if self._view is not None:
            self._view.write(World())

    def _write_plan(self, message: Message) -> None:
        if self.memory is None:
            return
        plan = RoundPlan.from_json({**message["plan"], "memory_dir": str(self.memory.directory)})
        self._plan = str(self.memory.write_plan(plan))

    def _see_world(self, message: Message) -> None:
        if self._view is not None:
            self._view.write(World.of(message["world"]))

    # --- workers

    def _launch(self, message: Message) -> None:
        assert self.memory is not None  # noqa: S101  ranks were assigned before
        self._round = int(message["round"])
        self._pace.begin_round()
        self.memory.remove_strangers()
        self.memory.mark(Past.from_json(message["past"]))
        specs = []
        for body in message["specs"]:
            spec = LaunchSpec.from_json(body)
            board = str(self.memory.boards[spec.rank].path) if spec.board is not None else None
            environment = {**spec.environment, PLAN: self._plan}
            specs.append(LaunchSpec.from_json({**spec.to_json(), "environment": environment, "board": board}))
        self._live = {spec.rank for spec in specs}
        source = "the beginning" if message["step"] is None else f"step {message['step']}"
        self._console.say(f"round {self._round}: starting {_ranks(self._live)} from {source}")
        self._spec.paths.round_logs(self._round).mkdir(parents=True, exist_ok=True)
        self._witness.begin_round(self._round, sorted(self._live))
        self._launcher.launch(specs)

    def _kill(self, message: Message) -> None:
        if self._live:
            self._console.say(f"killing the workers: {message['reason']}")
        self._witness.before_kill()
        self._launcher.kill()

    def _on_launcher(self) -> None:
        forkserver = self._launcher.pid
        reports = self._launcher.receive()
        if self._launcher.pid != forkserver:
            kill_orphans(self._helpers)
        for report in reports:
            if isinstance(report, Launched):
                self._witness.launched(report.rank, report.pid)
                self._channel.send({"op": "launched", "rank": report.rank, "pid": report.pid})
            elif isinstance(report, Exited):
                self._exited(report)
            elif isinstance(report, Failed):
                self._launch_failed(report)

    def _exited(self, report: Exited) -> None:
        if self.memory is None or report.rank not in self._live:
            return
        board = self.memory.boards[report.rank]
        self.memory.void_growing(report.rank)
        asked = board[Word.COMMAND] == Command.LEAVE
        self._tell_exit(self._ends.read(report, board, asked=asked), report.code)

    def _launch_failed(self, report: Failed) -> None:
        failure = failure_of(report)
        for rank in sorted(self._live if report.rank is None else self._live & {report.rank}):
            step = self.memory.boards[rank][Word.STEP] if self.memory is not None else 0
            self._tell_exit(on.WorkerExited(rank, step, failure), None)

    def _tell_exit(self, exited: on.WorkerExited, code: int | None) -> None:
        """After everything that the rank has shown before."""
        self._live.discard(exited.rank)
        if not self._live and self.memory is not None:
            self._journal.write("note", SPENT, self._clock(), **spent(self.memory.boards, self._round))
        self._tell_news()
        ago = None if exited.at is None else max(0.0, self._clock() - exited.at)
        event = {**plain(exited), "at": None}
        self._channel.send({"op": "exited", "round": self._round, "event": event, "ago": ago, "code": code})

    def _dump(self, message: Message) -> None:
        now = self._clock()
        watches = {}
        for rank, body in message["watches"].items():
            watch = decode(HangWatch, body)
            watches[int(rank)] = decode(HangWatch, {**plain(watch), "since": now - float(message["silent"][rank])})
        self._dump_state = RunState(phase=Phase.DUMPING, watches=watches)
        decision = do.DumpStacks(
            int(message["number"]), tuple(message["ranks"]), tuple(message["hung"]), now + float(message["seconds"])
        )
        self._dumps.begin(decision, self._dump_state, self._launcher.workers, self._launcher.pid)

    # --- snapshots

    def _slots(self, message: Message) -> dict[int, Any]:
        assert self.memory is not None  # noqa: S101  the leader has seen its slots
        where = {int(rank): place for rank, place in message["slots"].items()}
        slots = {rank: self.memory.arenas[rank].slots[at] for rank, at in where.items() if isinstance(at, int)}
        copies = {rank: name for rank, name in where.items() if isinstance(name, str)}
        if copies and self._peers is not None:
            slots.update(self._peers.slots_of(int(message["step"]), copies) or {})
        return slots

    def _persist_part(self, message: Message) -> None:
        self._collect_metrics()  # what is durable will not be reported again
        self._drain.persist_part(
            int(message["step"]), self._slots(message), message["details"], str(message["staging"])
        )

    def _drop_part(self, step: int) -> None:
        writing = self._drain.writing
        if writing is not None and writing.step == step:
            self._drain.abandon()

    def _restore(self, message: Message) -> None:
        step = int(message["step"])
        if self.memory is not None:
            self.memory.mark_foreign(step)
        self._drain.restore(
            step,
            self._slots(message),
            int(message["sequence"]),
            reshard=bool(message["reshard"]),
            world_size=int(message["world"]),
        )

    def _on_drain(self) -> None:
        answer = self._drain.receive()
        if answer is not None:
            self._journal.record("note", answer, self._clock())
            self._tell_news()
            self._channel.send(told(answer))

    # --- whoever wants this node to stop

    def _on_signal(self) -> None:
        for number in self._signals.take():
            notice = self._scheduler.signalled(number, stopping=self._stopping)
            if notice is not None:
                self._pass_on(notice, again=self._stopping)

    def _heed_scheduler(self) -> None:
        notice = self._scheduler.poll(self._needed)
        if notice is not None:
            self._pass_on(notice, again=False)

    def _needed(self) -> Needed:
        newest = self.memory.newest_step() if self.memory is not None else None
        if self.memory is None or newest is None or self._drain.rate <= 0:
            return Needed()
        slots = self.memory.slots_of(newest) or {}
        return Needed(0.0, sum(slot.info().size for slot in slots.values()) / self._drain.rate)

    def _pass_on(self, notice: Notice, *, again: bool) -> None:
        """:param again: whoever asks has asked this node before, and is in a hurry."""
        self._stopping = True
        self._console.say(notice.reason)
        body = {"kind": notice.kind.value, "grace": notice.grace, "patient": notice.patient, "reason": notice.reason}
        self._channel.send({"op": "stop", "again": again, **body})


def _ranks(ranks: set[int]) -> str:
    return f"rank {min(ranks)}" if len(ranks) == 1 else f"ranks {min(ranks)}–{max(ranks)}"
