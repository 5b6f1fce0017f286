"""The decision core against a small model of the shell: whatever happens, in whatever order, these things hold.

The model knows what the real supervisor knows: which workers live, which request waits for its answer, what could be
resumed from. It feeds only events that could happen in that situation, and checks every decision as it comes.
"""

from __future__ import annotations

import copy
import json
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.errors import ExitCode
from resilient.policy.culprit import Condition, RankAccount
from resilient.policy.decisions import (
    AbandonReplay,
    AbandonRestore,
    AskWorkers,
    Decision,
    DiscardAfter,
    DiscardMemory,
    DistrustNode,
    DumpStacks,
    EndRun,
    FlushMemory,
    FormGroup,
    KillWorkers,
    LaunchRound,
    ListSnapshots,
    RecordIncident,
    RefuseRollback,
    RegroupWorkers,
    ReplayWindow,
    ReportFinding,
    RestoreSnapshot,
    SaveLineage,
    SignalWorkers,
)
from resilient.policy.divergence import (
    Alarm,
    Divergence,
    DivergenceKind,
    DivergenceSettings,
    LadderSettings,
    ReplaySettings,
)
from resilient.policy.events import (
    Event,
    FlushEnded,
    GraceKnown,
    LaunchFailed,
    MetricsJudged,
    NodesSeen,
    ReplayEnded,
    RestoreFailed,
    RollbackRequested,
    RunOpened,
    SkipResolved,
    SnapshotDurable,
    SnapshotRejected,
    SnapshotRestored,
    SnapshotsListed,
    StacksDumped,
    StopKind,
    StopRequested,
    Tick,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.hang import HangSettings
from resilient.policy.lineage import Lineage, RollbackCause, Skip
from resilient.policy.machine import decide
from resilient.policy.nodes import NodeSettings
from resilient.policy.restarts import RestartSettings
from resilient.policy.state import Phase, PolicySettings, RunState
from resilient.policy.verdict import Verdict, VerdictKind

FAILURES = st.sampled_from(
    [
        Failure(FailureClass.KILLED, "SIGKILL"),
        Failure(FailureClass.CRASH, "SIGSEGV"),
        Failure(FailureClass.CODE, "TypeError: bad"),
        Failure(FailureClass.HOST_OOM, "MemoryError"),
        Failure(FailureClass.BAD_SNAPSHOT, "SnapshotCorrupt: damaged"),
        Failure(FailureClass.NUMERIC, "ValueError: loss is nan"),
        Failure(FailureClass.PREEMPTION, "SIGTERM reached the worker alone"),
        Failure(FailureClass.NODE_LOST, "node b is lost"),
    ]
)
DIVERGENCE = st.builds(
    DivergenceSettings,
    respond=st.sampled_from([True, True, True, False]),
    good_after=st.just(2),
    margin=st.just(1),
    ladder=st.builds(
        LadderSettings,
        attempts=st.just(3),
        budget=st.just(5),
        probation=st.just(4),
        restart_within=st.sampled_from([0, 4, 500]),
    ),
    replay=st.builds(ReplaySettings, enabled=st.booleans()),
)
SECONDS = st.sampled_from([0.0, 0.05, 1.0, 4.0, 30.0, 500.0])


class Died(Exception):  # noqa: N818  it is no error
    """The supervisor was killed between two decisions."""


class Shell(RuleBasedStateMachine):
    """What surrounds the core: workers, snapshots, a clock, and somebody who may ask it to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.state = RunState()
        self.now = 0.0
        self.live: set[int] = set()
        self.started = False  # one of this round's workers has shown a sign of life
        self.steps: dict[int, int] = {}
        self.said_finished: set[int] = set()
        self.stop_requested = False
        self.patience = 0  # events before somebody may ask it to stop, so that most runs see many rounds
        self.killed = False
        self.memory: int | None = None
        self.peer: int | None = None  # what other nodes remember
        self.durable: set[int] = set()
        self.remote: set[int] = set()
        self.unmarked: set[int] = set()  # rejected remote ones that could not be marked, and are listed again
        self.forgiven: set[int] = set()  # of these, the ones whose step was trained again: a copy may be a new one
        self.rejected: set[int] = set()  # steps whose local copy was rejected once
        self.restoring: RestoreSnapshot | None = None
        self.flushing = False
        self.dumps: list[DumpStacks] = []
        self.rounds: list[int] = []
        self.ends: list[EndRun] = []
        self.incidents: list[int] = []
        self.had_snapshot = False
        self.sound = True  # no check has failed yet
        self.saved = Lineage()
        self.doomed: set[int] = set()  # discarded, and on disk until somebody has had the time to set them aside
        self.discarded = False  # what the pending rollback discards is set aside
        self.replaying: ReplayWindow | None = None
        self.slow = self.listing = False  # the remote tier is heard of late
        self.nodes: NodeSettings | None = None
        self.regrouping = False  # this round's workers were asked to leave for that
        self.there: set[str] = set()  # nodes beside this one
        self.group: tuple[str, ...] = ()
        self.ranks = 1
        self.gathering: float | None = None  # since when
        self.depth = 0
        self.dies_in: int | None = None  # decisions

    # --- carrying out decisions, as the supervisor does

    def feed(self, event: Event) -> None:
        self.depth += 1
        try:
            self.take(event)
        except Died:
            if self.depth > 1:
                raise
            self.sound = True
            self.succeed()
        finally:
            self.depth -= 1

    def take(self, event: Event) -> None:
        self.patience -= 1
        self.sound = False
        before, furthest = copy.deepcopy(self.state), self.state.furthest
        after, decisions = decide(self.state, event, self.now)
        assert (after, decisions) == decide(before, event, self.now), "the same input must give the same output"
        assert self.state == before, "the input must not change"
        went_back = before.lineage.pending and not after.lineage.pending
        assert after.furthest >= furthest or went_back
        self.state = after
        saved = [decision.lineage for decision in decisions if isinstance(decision, SaveLineage)]
        assert not saved or saved[-1] == after.lineage, "what is written down is what is so"
        for decision in decisions:
            assert not self.ends, "nothing follows the end"
            if self.dies_in is not None:
                self.dies_in -= 1
                if self.dies_in < 0:
                    raise Died
            self.carry_out(decision)
        self.sound = True

    def succeed(self) -> None:
        """Another supervisor takes the run over. Workers died with the first one; memory and disk are as they were."""
        self.dies_in, self.depth = None, 0
        self.live, self.killed, self.flushing, self.stop_requested = set(), False, False, False
        self.restoring = self.replaying = self.gathering = None
        self.discarded = False
        self.remote, self.unmarked, self.forgiven = self.remote | self.unmarked, set(), set()
        self.patience = 10
        self.had_snapshot = self.memory is not None or self.peer is not None or bool(self.durable | self.remote)
        self.state = RunState(settings=self.state.settings)
        incidents = max(self.incidents, default=0)
        last = self.rounds[-1]
        self.feed(RunOpened(True, last, incidents, lineage=self.saved, group=self.group))

    def carry_out(self, decision: Decision) -> None:
        if isinstance(decision, (ListSnapshots, FormGroup, RestoreSnapshot, LaunchRound)):
            self.carry_out_on_choice(decision)
        elif isinstance(decision, (AbandonRestore, DumpStacks, KillWorkers)):
            self.carry_out_on_hang(decision)
        elif isinstance(decision, (SaveLineage, DiscardAfter, ReplayWindow, AbandonReplay, DistrustNode)):
            self.carry_out_on_rollback(decision)
        elif isinstance(decision, FlushMemory):
            assert not self.saved.pending or self.discarded, "a diverged state is not made durable"
            self.nobody_is_left()
            self.flushing = True
        elif isinstance(decision, DiscardMemory):
            assert not self.live
            self.memory = None
        elif isinstance(decision, RecordIncident):
            self.incidents.append(decision.incident.number)
        elif isinstance(decision, EndRun):
            self.end(decision)
        elif isinstance(decision, RegroupWorkers):
            assert len(decision.nodes) > len(self.group)
            self.regrouping = True
        else:
            assert isinstance(decision, (AskWorkers, SignalWorkers, ReportFinding, RefuseRollback))
            assert self.stop_requested or not isinstance(decision, (AskWorkers, SignalWorkers))

    def carry_out_on_choice(self, decision: ListSnapshots | FormGroup | RestoreSnapshot | LaunchRound) -> None:
        if isinstance(decision, ListSnapshots):
            assert not self.live
            if self.nodes is None:
                self.list_soon()
            else:
                self.gathering = self.now
                self.feed(self.seen())
        elif isinstance(decision, FormGroup):
            self.form(decision)
        elif isinstance(decision, RestoreSnapshot):
            assert self.restoring is None
            assert not self.live, "the slots of live workers are theirs"
            assert decision.tier is not Tier.LOCAL or decision.step in self.durable
            assert decision.tier is not Tier.PEER or decision.step == self.peer
            assert decision.tier is not Tier.MEMORY
            if decision.tier is Tier.REMOTE:
                assert decision.step in self.remote | self.forgiven, "what was rejected is not tried again"
                assert decision.step not in self.durable - self.rejected, "the nearer copy comes first"
            self.restoring, self.memory = decision, None
        else:
            self.launch(decision)

    def end(self, decision: EndRun) -> None:
        assert not self.live, "a run does not end over living workers"
        if self.saved.target is not None:
            assert all(step <= self.saved.target for step in self.durable | self.remote)
        self.ends.append(decision)

    def carry_out_on_rollback(
        self, decision: SaveLineage | DiscardAfter | ReplayWindow | AbandonReplay | DistrustNode
    ) -> None:
        if isinstance(decision, SaveLineage):
            if decision.lineage.target != self.saved.target:
                self.discarded = False
            self.saved = Lineage.from_json(json.loads(json.dumps(decision.lineage.to_json())))
            assert self.saved == decision.lineage
        elif isinstance(decision, DiscardAfter):
            assert self.saved.target == decision.step, "first it is written down"
            self.nobody_is_left()
            self.discard_after(decision.step)
        elif isinstance(decision, ReplayWindow):
            assert not self.live
            assert not self.stop_requested
            assert decision.snapshot == self.saved.target
            assert decision.snapshot < decision.first <= decision.last
            assert decision.number not in self.incidents
            self.replaying = decision
        elif isinstance(decision, AbandonReplay):
            assert self.replaying is not None
            self.replaying = None
        else:
            assert self.saved.rollbacks[-1].cause is RollbackCause.HARDWARE
            assert decision.incident in self.incidents

    def form(self, decision: FormGroup) -> None:
        assert self.nodes is not None
        assert self.gathering is not None, "nobody is gathered in the middle of something else"
        assert not self.live
        assert decision.nodes[0] == "me"
        assert set(decision.nodes[1:]) <= self.there
        assert self.nodes.fewest <= len(decision.nodes) <= self.nodes.count
        if not set(self.group) <= set(decision.nodes) or len(decision.nodes) != self.ranks:
            self.memory, self.had_snapshot = None, bool(self.durable | self.remote)  # images of some ranks are gone
        if len(decision.nodes) != self.ranks:
            self.peer = None  # that is of another number of ranks
        self.group, self.ranks, self.gathering = decision.nodes, len(decision.nodes), None
        self.list_soon()

    def seen(self) -> NodesSeen:
        return NodesSeen(("me", *sorted(self.there)), self.now if self.gathering is None else self.gathering)

    def list_soon(self) -> None:
        self.listing = True
        if not self.slow:
            self.answer_listing()

    def answer_listing(self) -> None:
        self.listing = False
        remote = tuple(sorted(self.remote | self.unmarked))
        there = self.durable | self.doomed if self.saved.pending else self.durable
        ranks = None if self.nodes is None else self.ranks
        self.feed(SnapshotsListed(self.memory, tuple(sorted(there)), 0, remote, ranks=ranks, peer_step=self.peer))

    def nobody_is_left(self) -> None:
        """What is flushed, or set aside, must not change any more."""
        assert not self.live or (self.killed and self.stop_requested)
        self.live.clear()  # nobody waits for those that SIGKILL has not ended

    def discard_after(self, target: int) -> None:
        self.discarded = True
        self.doomed |= {step for step in self.durable if step > target}
        self.memory = None if self.memory is not None and self.memory > target else self.memory
        self.peer = None if self.peer is not None and self.peer > target else self.peer
        for steps in (self.durable, self.remote, self.unmarked, self.forgiven):
            steps -= {step for step in steps if step > target}
        if target == 0:
            self.had_snapshot = False

    def carry_out_on_hang(self, decision: AbandonRestore | DumpStacks | KillWorkers) -> None:
        if isinstance(decision, AbandonRestore):
            assert self.restoring is not None
            self.restoring = None
        elif isinstance(decision, DumpStacks):
            assert set(decision.hung) <= set(decision.ranks) == self.live
            assert decision.number not in self.incidents, "the number is one that no incident has yet"
            self.dumps.append(decision)
        else:
            self.killed = True

    def launch(self, launch: LaunchRound) -> None:
        assert not self.live, "nothing is relaunched before every worker of the round is gone"
        assert not self.stop_requested, "who was asked to stop does not start again"
        if launch.step is None:
            assert not self.had_snapshot, "a run that has a snapshot never starts over in silence"
            assert not self.saved.target, "nor is it rolled back farther than it may"
        else:
            assert launch.step == self.memory, "the workers resume from what lies in memory"
            assert launch.step >= max(self.durable | self.remote, default=0), "nothing newer was passed over"
            assert self.saved.target is None or launch.step == self.saved.target, "from there, and from nowhere else"
        self.rounds.append(launch.round)
        self.live = set(range(self.ranks))
        self.steps = dict.fromkeys(self.live, launch.step or 0)
        self.said_finished, self.started, self.killed = set(), False, False
        self.regrouping = False

    # --- what can happen

    @initialize(
        ranks=st.integers(1, 3),
        takeover=st.booleans(),
        memory=st.none() | st.integers(1, 20),
        peer=st.none() | st.integers(1, 20),
        durable=st.sets(st.integers(1, 20), max_size=3),
        remote=st.sets(st.integers(1, 20), max_size=3),
        last_round=st.integers(-1, 3),
        patience=st.integers(0, 80),
        policy=DIVERGENCE,
        attaches=st.sampled_from([True, True, True, False]),
        slow=st.booleans(),
        nodes=st.none()
        | st.builds(
            NodeSettings,
            st.just(3),
            least=st.none() | st.integers(1, 3),
            grow_seconds=st.sampled_from([0.0, 60.0]),
        ),
    )
    def opened(
        self,
        *,
        ranks: int,
        takeover: bool,
        memory: int | None,
        peer: int | None,
        durable: set[int],
        remote: set[int],
        last_round: int,
        patience: int,
        policy: DivergenceSettings,
        attaches: bool,
        slow: bool,
        nodes: NodeSettings | None,
    ) -> None:
        budget = RestartSettings(max_failures=5, intensity=12, intensity_seconds=300.0)
        watch = HangSettings(startup_seconds=400.0, min_seconds=3.0, factor=2.0, phase_seconds=20.0)
        self.nodes, self.ranks = nodes, ranks if nodes is None else nodes.count
        self.there = set() if nodes is None else {"b", "c"}
        settings = PolicySettings(self.ranks, budget, watch, divergence=policy, rolls_back=attaches, nodes=nodes)
        self.state = RunState(settings=settings)
        self.memory, self.peer, self.durable, self.remote = memory, peer, durable, remote
        self.had_snapshot = memory is not None or peer is not None or bool(durable) or bool(remote)
        self.rounds.append(last_round)
        self.patience, self.slow = patience, slow
        self.feed(RunOpened(takeover, last_round=last_round))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())
        if self.gathering is not None and self.state.phase is Phase.CHOOSING:
            self.feed(self.seen())

    @precondition(lambda self: self.nodes is not None and self.rounds and (not self.listing or self.slow))
    @rule(name=st.sampled_from("bcd"))
    def node_comes_or_goes(self, name: str) -> None:
        """Told in any phase; where the group is formed and the listing is late, it is gathered once more."""
        self.there ^= {name}
        if self.listing and self.state.phase is Phase.CHOOSING:
            self.listing, self.gathering = False, self.now
        self.feed(self.seen())

    @precondition(lambda self: self.listing and self.state.phase is Phase.CHOOSING)
    @rule()
    def remote_tier_is_heard_of(self) -> None:
        self.answer_listing()

    @precondition(lambda self: self.live)
    @rule(data=st.data(), phase=st.sampled_from(["step", "step", "step", "eval", "save"]))
    def worker_moves(self, data: st.DataObject, phase: str) -> None:
        rank = data.draw(st.sampled_from(sorted(self.live)))
        self.started = True
        if phase == "step":
            self.steps[rank] += 1
            complete = min(self.steps.values())
            if complete > (self.memory or 0):
                self.memory, self.had_snapshot = complete, True
        self.forgiven |= {step for step in self.unmarked if step <= min(self.steps.values())}
        self.feed(WorkerProgressed(rank, self.steps[rank], phase))

    @precondition(lambda self: self.memory is not None)
    @rule()
    def snapshot_is_copied_to_other_nodes(self) -> None:
        self.peer = self.memory

    @precondition(lambda self: self.live and self.peer is not None)
    @rule()
    def node_is_lost(self) -> None:
        self.memory = None
        self.leave(min(self.live), Failure(FailureClass.KILLED, "SIGKILL"))

    @precondition(lambda self: self.memory is not None)
    @rule()
    def snapshot_becomes_durable(self) -> None:
        assert self.memory is not None
        before, self.durable = self.durable, set(sorted({*self.durable, self.memory})[-3:])
        self.feed(SnapshotDurable(self.memory, tuple(sorted(before - self.durable))))

    @precondition(lambda self: self.durable)
    @rule()
    def snapshot_is_uploaded(self) -> None:
        self.remote.add(max(self.durable))
        self.unmarked.discard(max(self.durable))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), failure=FAILURES)
    def worker_fails(self, data: st.DataObject, failure: Failure) -> None:
        self.leave(data.draw(st.sampled_from(sorted(self.live))), failure)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def worker_finishes(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.live)))
        self.said_finished.add(rank)
        self.leave(rank, None, finished=True)

    @precondition(lambda self: self.live and (self.stop_requested or self.regrouping))
    @rule(data=st.data())
    def worker_leaves_as_asked(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(sorted(self.live))), None)

    @precondition(lambda self: self.state.phase is Phase.DUMPING)
    @rule(data=st.data(), condition=st.sampled_from(Condition))
    def stacks_are_written(self, data: st.DataObject, condition: Condition) -> None:
        rank = data.draw(st.sampled_from(self.dumps[-1].ranks))
        self.feed(StacksDumped((RankAccount(rank, condition, "train (train.py:1)"),)))
        assert self.state.phase is not Phase.DUMPING, "it goes on from there at once"

    @precondition(lambda self: self.live and self.killed)
    @rule()
    def killed_workers_are_gone(self) -> None:
        for rank in sorted(self.live):
            self.leave(rank, Failure(FailureClass.KILLED, "SIGKILL"))

    def leave(self, rank: int, failure: Failure | None, *, finished: bool = False) -> None:
        self.started = True
        self.live.remove(rank)
        self.feed(WorkerExited(rank, self.steps[rank], failure, finished))

    @precondition(lambda self: self.live and not self.started and self.state.phase is Phase.STARTING)
    @rule()
    def launch_fails(self) -> None:
        self.live.clear()
        self.feed(LaunchFailed(Failure(FailureClass.CRASH, "fork: out of memory")))

    @precondition(lambda self: self.restoring is not None)
    @rule(outcome=st.sampled_from(["restored", "rejected", "rejected", "failed"]), marked=st.booleans())
    def restore_ends(self, outcome: str, *, marked: bool) -> None:
        assert self.restoring is not None
        restoring, self.restoring = self.restoring, None
        step, tier = restoring.step, restoring.tier
        if outcome == "failed":
            self.feed(RestoreFailed(step, "no room in shared memory"))
        elif outcome == "restored":
            self.memory = step
            self.feed(SnapshotRestored(step, tier))
        else:
            if tier is Tier.PEER:
                self.peer = None
            else:
                (self.remote if tier is Tier.REMOTE else self.durable).discard(step)
            if tier is Tier.LOCAL:
                self.rejected.add(step)
            elif tier is Tier.REMOTE and not marked:
                self.unmarked.add(step)
            self.feed(SnapshotRejected(step, tier, "checksum mismatch"))

    @precondition(lambda self: self.patience < 0)
    @rule(kind=st.sampled_from(StopKind), grace=st.sampled_from([0.5, 20.0]))
    def somebody_asks_to_stop(self, kind: StopKind, grace: float) -> None:
        self.stop_requested = True
        self.feed(StopRequested(kind, grace))

    @precondition(lambda self: self.state.stop is not None)
    @rule(grace=st.sampled_from([0.0, 0.5, 20.0]))
    def how_long_there_is_becomes_known(self, grace: float) -> None:
        self.feed(GraceKnown(grace))

    @precondition(lambda self: self.flushing and self.restoring is None)
    @rule(works=st.booleans())
    def flush_ends(self, works: bool) -> None:
        self.flushing = False
        if works and self.memory is not None:
            self.durable.add(self.memory)
        self.feed(FlushEnded(max(self.durable, default=None), None if works else "the disk is full"))

    @precondition(lambda self: self.rounds and not self.ends and self.steps)
    @rule(data=st.data(), kind=st.sampled_from([None, None, Alarm, Divergence, Divergence]), late=st.integers(0, 3))
    def metrics_are_judged(self, data: st.DataObject, kind: type[Alarm | Divergence] | None, late: int) -> None:
        step = max(1, min(self.steps.values()))
        alarm = max(1, step - late)
        onset = data.draw(st.integers(1, alarm))
        found = (
            () if kind is None else (kind(DivergenceKind.SPIKE, "loss", onset, alarm, step, 9.0, 1.0, 0.1, ("up",)),)
        )
        self.feed(MetricsJudged(step, found, onset if found else None))

    @precondition(lambda self: self.rounds and not self.ends)
    @rule(
        data=st.data(),
        skip=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
        lr_factor=st.sampled_from([1.0, 0.5, 0.0]),
    )
    def person_wants_to_go_back(self, data: st.DataObject, skip: tuple[int, int] | None, lr_factor: float) -> None:
        target = data.draw(st.none() | st.sampled_from([0, *sorted(self.durable | self.remote)]))
        self.feed(RollbackRequested(target, skip, lr_factor))

    @precondition(lambda self: self.rounds and not self.ends)
    @rule()
    def worker_finds_out_what_is_left_out(self) -> None:
        self.feed(SkipResolved((Skip((0, 8), (0, 16)),)))

    @precondition(lambda self: self.replaying is not None or (self.rounds and not self.ends))
    @rule(kind=st.sampled_from(VerdictKind))
    def replay_ends(self, kind: VerdictKind) -> None:
        self.replaying = None
        self.feed(ReplayEnded(Verdict(kind, "so it was", 3, ("there",))))

    @precondition(lambda self: self.rounds and not self.ends and self.patience < 0)
    @rule(decisions=st.integers(0, 6))
    def supervisor_dies(self, decisions: int) -> None:
        """In so many decisions from now, or at the next look where there are fewer."""
        self.dies_in = decisions

    # --- what always holds

    @invariant()
    def both_sides_agree_on_who_lives(self) -> None:
        assert self.state.live == self.live

    @invariant()
    def rounds_are_counted_one_by_one(self) -> None:
        assert all(later == earlier + 1 for earlier, later in pairwise(self.rounds))

    @invariant()
    def incidents_are_numbered_upwards(self) -> None:
        assert self.incidents == sorted(set(self.incidents))

    @invariant()
    def the_run_ends_at_most_once_and_then_it_has_ended(self) -> None:
        assert len(self.ends) <= 1
        assert bool(self.ends) == (self.state.phase is Phase.ENDED)

    @invariant()
    def finished_means_that_every_rank_said_so(self) -> None:
        if self.ends and self.ends[0].exit_code is ExitCode.FINISHED:
            assert self.said_finished == set(range(self.ranks))

    @invariant()
    def a_group_that_is_cleared_has_been_killed(self) -> None:
        assert (self.state.phase is Phase.DUMPING) <= (self.state.dumping is not None)
        if self.state.phase is Phase.CLEARING:
            assert self.killed

    def teardown(self) -> None:
        """From wherever we are: asked to stop, and with workers that die when they are killed, the run ends."""
        if self.ends or not self.rounds or not self.sound:
            return
        self.dies_in = None
        self.somebody_asks_to_stop(StopKind.REQUEST, 1.0)
        for _ in range(3):
            self.time_passes(100.0)
        assert self.killed or not self.live
        self.killed_workers_are_gone()
        if self.restoring is not None:
            self.restore_ends("restored", marked=True)
        self.flush_ends(works=True)
        self.both_sides_agree_on_who_lives()
        self.the_run_ends_at_most_once_and_then_it_has_ended()
        assert self.ends


Shell.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestShell = Shell.TestCase
