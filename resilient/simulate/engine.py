"""The world around the decision core: supervisor, workers, machines and storage, as events in simulated time.

The core is the one of real runs, :func:`resilient.policy.machine.decide`; an event that its table does not foresee
raises here as it does there. What a supervisor would do in answer to a decision takes its time here and nothing else.

What is left out: divergence and rollbacks, stragglers, a failure during the few seconds in which another one is being
cleared away (its node is replaced all the same), and loads that change with the day.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from resilient.errors import ExitCode
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.culprit import RankAccount
from resilient.policy.events import Tier
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.interval import expected_failure_seconds
from resilient.policy.machine import decide
from resilient.policy.state import Phase, PolicySettings, RunState
from resilient.simulate.accounts import Accounts
from resilient.simulate.agenda import Agenda
from resilient.simulate.costs import Costs
from resilient.simulate.faults import LLAMA3, Arrival, Kind, arrivals
from resilient.simulate.forward import forward
from resilient.simulate.held import Held
from resilient.simulate.ledger import Bucket
from resilient.simulate.nodes import Spares
from resilient.simulate.outcome import Outcome
from resilient.simulate.plan import DAY, Plan
from resilient.simulate.rounds import Round

_SHORTLY = 0.05  # seconds; a limit is seen to be passed with the next poll
_FAILURE_PRIOR = 86400.0  # seconds; the default of snapshot.failure_seconds
_BUG = Kind("deterministic bug", 0, FailureClass.APPLICATION, Tier.MEMORY, replaces=False)
_KILLED = Failure(FailureClass.KILLED, "SIGKILL")
_OF_THE_WORLD = ("failure", "preemption")


class Simulation:
    """One run. :meth:`run` may be called once."""

    def __init__(self, plan: Plan, kinds: tuple[Kind, ...] = LLAMA3) -> None:
        seed = f"{plan.seed}"
        self._plan, self._costs = plan, Costs.of(plan)
        self._agenda, self._accounts, self._spares, self._held = Agenda(), Accounts(), Spares(plan), Held()
        self._arrivals = arrivals(kinds, plan.failures_per_second, plan.groups, f"{seed}/failures")
        self._preempted, self._queue, self._damaged = (
            random.Random(f"{seed}/{name}")  # noqa: S311  dice, and no secret
            for name in ("preemptions", "queue", "damage")
        )
        policy = PolicySettings(
            ranks=plan.groups, restarts=plan.restarts, hang=plan.hang, stop=plan.stop, seed=f"simulated-{seed}"
        )
        self._state = RunState(settings=policy)
        self._events: deque[on.Event] = deque()
        self._now = 0.0
        self._round: Round | None = None
        self._struck: Arrival | None = None
        self._reached = 0
        self._ended: tuple[int, str, float] | None = None
        self._handlers: Mapping[type[do.Decision], Callable[[Any], None]] = {
            do.ListSnapshots: lambda _: self._make_whole(),
            do.RestoreSnapshot: self._restore,
            do.AbandonRestore: lambda _: self._agenda.cancel("restore"),
            do.LaunchRound: self._launch,
            do.KillWorkers: lambda _: self._kill(),
            do.DumpStacks: self._dump,
            do.AskWorkers: lambda _: self._asked(),
            do.SignalWorkers: lambda _: None,
            do.FlushMemory: self._flush,
            do.DiscardMemory: lambda _: self._held.forget(),
            do.RecordIncident: self._record,
            do.EndRun: self._end,
            do.SaveLineage: lambda _: None,
        }

    def run(self) -> Outcome:
        """Until the simulated time is over."""
        self._next_failure()
        self._next_preemption()
        self._feed(on.RunOpened())
        while (item := self._agenda.take(self._plan.seconds)) is not None:
            self._now, action = item
            action()
        self._now = self._plan.seconds
        if self._round is not None:
            self._settle(Bucket.TRAINING)
        self._turn(Bucket.ENDED)
        return self._accounts.outcome(self._plan, self._costs, self._held, self._reached, self._ended)

    # --- the core

    def _feed(self, event: on.Event) -> None:
        """Put an event through the core, and carry out what it decides."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # we are called from a decision of an earlier event, whose loop below goes on with this one
        while self._events:
            before = self._state.phase
            decisions = self._decide(self._events[0], self._now)
            if self._state.phase is Phase.WAITING and before is not Phase.WAITING:
                self._turn(Bucket.WAITING)
                self._agenda.put("wait", self._state.relaunch_at, self._tick)
            for decision in decisions:
                self._handlers[type(decision)](decision)
            self._events.popleft()

    def _decide(self, event: on.Event, now: float) -> tuple[do.Decision, ...]:
        self._state, decisions = decide(self._state, event, now)
        self._accounts.decisions += 1
        return decisions

    def _tick(self) -> None:
        self._feed(on.Tick())

    # --- time

    def _turn(self, bucket: Bucket) -> None:
        self._accounts.turn(bucket, self._now)

    def _settle(self, rest: Bucket = Bucket.LOST) -> None:
        """The steps of the round come to an end now.

        :param rest: what the step counts as that is not complete.
        """
        steps, self._round = self._round, None
        assert steps is not None  # noqa: S101  only a round that takes steps is settled
        count = steps.steps_by(self._now)
        self._tell_of_steps(steps, count)
        self._accounts.settle(steps, count, self._now, rest)
        self._held.take(steps, self._now)
        self._reached = steps.base + count

    def _tell_of_steps(self, steps: Round, count: int) -> None:
        if not self._plan.every_step:
            self._state = forward(self._state, steps, count)
            return
        for number in range(2, count + 1):
            for rank in sorted(self._state.live):
                self._decide(on.WorkerProgressed(rank, steps.base + number), steps.complete_at(number))

    # --- a round

    def _make_whole(self) -> None:
        """Nothing is listed before every node is there."""
        waits = self._spares.whole_at > self._now
        self._turn(Bucket.REPLACEMENT if waits else Bucket.LAUNCH)
        if waits:
            self._agenda.put("list", self._spares.whole_at, self._make_whole)
        else:
            self._agenda.put("list", self._now + self._plan.list_seconds, self._list)

    def _list(self) -> None:
        if self._spares.whole_at > self._now:  # one more was lost meanwhile
            self._make_whole()
            return
        held = self._held
        self._feed(on.SnapshotsListed(held.memory, held.local, held.rejected, held.remote, peer_step=held.peer))

    def _restore(self, decision: do.RestoreSnapshot) -> None:
        self._turn(Bucket.RESTORE)
        self._agenda.put("restore", self._now + self._costs.restore(decision.tier), partial(self._restored, decision))
        phase = f"restore from {decision.tier.value}"
        limit = self._plan.hang.limit_of(phase, self._state.learned.get(phase))
        self._agenda.put("late restore", self._now + limit + _SHORTLY, self._tick)

    def _restored(self, decision: do.RestoreSnapshot) -> None:
        self._agenda.cancel("late restore")
        if decision.tier is not Tier.PEER and self._damaged.random() < self._plan.corrupt:
            self._held.reject(decision.step, decision.tier)
            self._feed(on.SnapshotRejected(decision.step, decision.tier, "a shard does not have its checksum"))
            return
        self._held.memory = decision.step
        self._feed(on.SnapshotRestored(decision.step, decision.tier))

    def _launch(self, decision: do.LaunchRound) -> None:
        base, step_seconds = decision.step or 0, self._plan.step_seconds
        self._turn(Bucket.LAUNCH)
        self._accounts.ledger.discard((self._reached - base) * step_seconds, self._accounts.cause)
        self._reached = base
        self._accounts.rounds += 1
        self._accounts.resumed["nothing" if decision.source is None else decision.source.value] += 1
        self._struck = None
        self._agenda.put("training", self._now + self._plan.launch_seconds, self._train)
        self._watch_silence(self._now + self._plan.launch_seconds + step_seconds)

    def _train(self) -> None:
        """The first step begins."""
        self._turn(Bucket.TRAINING)
        plan, base = self._plan, self._reached
        self._accounts.interval = plan.durable_seconds or self._chosen_interval()
        steps = Round.planned(self._now, base, plan, self._costs, self._accounts.interval)
        self._round = steps
        self._agenda.put("first step", steps.complete_at(1), self._first_step)
        if plan.steps:
            self._agenda.put("finish", steps.complete_at(max(0, plan.steps - base)), self._finish)
        if plan.bug_step:
            at = steps.complete_at(max(0, plan.bug_step - base)) + plan.step_seconds / 2
            self._agenda.put("bug", at, lambda: self._strike(Arrival(self._now, _BUG, 0)))
        if self._state.phase is Phase.STOPPING:
            self._asked()

    def _chosen_interval(self) -> float:
        plan, books = self._plan, self._accounts
        restore = self._costs.restore(Tier.REMOTE)
        restart = plan.clear_seconds + plan.swap_seconds + plan.list_seconds + restore + plan.launch_seconds
        lasts = expected_failure_seconds(_FAILURE_PRIOR, books.up, books.losses)
        return self._costs.durable_interval(lasts, restart)

    def _first_step(self) -> None:
        if self._state.phase is not Phase.STOPPING:
            self._accounts.cause = "shutdown"  # whatever was lost before is made up for
        self._agenda.cancel("silence")
        for rank in sorted(self._state.live):
            self._feed(on.WorkerProgressed(rank, self._reached + 1))

    def _finish(self) -> None:
        self._settle()
        self._gone(finished=True)

    def _gone(self, failure: Failure | None = None, *, finished: bool = False) -> None:
        self._agenda.cancel("training", "first step", "finish", "bug", "silence", "noticed", "leave", "gone")
        self._agenda.cancel("to signal", "to kill")
        for rank in sorted(self._state.live):
            self._feed(on.WorkerExited(rank, self._reached, failure, finished=finished))

    # --- failures

    def _next_failure(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self._agenda.put("failure", arrival.at, partial(self._fail, arrival))

    def _fail(self, arrival: Arrival) -> None:
        """Something fails, whatever is up now."""
        self._next_failure()
        if self._state.phase is Phase.ENDED:
            return  # the machines are not ours now
        kind = arrival.kind
        self._accounts.failures[kind.name] += 1
        if kind.replaces:
            self._spares.lose_node(self._now)
        else:
            self._spares.wait_for_node(self._now, kind.outage)
        if self._struck is None and (self._round is not None or self._state.phase is Phase.STARTING):
            self._strike(arrival)
        self._held.lose(kind.survives)
        self._accounts.losses += kind.survives is not Tier.MEMORY and self._held.peer is None
        if self._state.phase is Phase.RESTORING and kind.survives is not Tier.MEMORY:
            self._break_restore()

    def _strike(self, arrival: Arrival) -> None:
        """It hits a round that is up."""
        self._accounts.cause, self._struck = arrival.kind.name, arrival
        self._accounts.interruptions += 1
        if self._round is not None:
            self._settle()
        self._turn(Bucket.DETECTION)
        self._agenda.cancel("training", "first step", "finish", "bug", "silence", "leave")
        if arrival.kind.silent:
            self._watch_silence()
        else:
            self._agenda.put("noticed", self._now + arrival.kind.detection, self._noticed)

    def _noticed(self) -> None:
        struck = self._struck
        assert struck is not None  # noqa: S101  only then is there anything to notice
        if struck.group in self._state.live:
            self._turn(Bucket.CLEARING)
            self._feed(on.WorkerExited(struck.group, self._reached, struck.kind.failure, at=struck.at))

    def _break_restore(self) -> None:
        """A node is lost that a snapshot is being read to."""
        restoring = self._state.restoring
        assert restoring is not None  # noqa: S101  RESTORING is only entered with one
        self._agenda.cancel("restore", "late restore")
        self._feed(on.RestoreFailed(restoring.step, "a node was lost meanwhile", restoring.tier))

    def _watch_silence(self, progress_at: float = float("inf")) -> None:
        """The core is asked when it is going to find that a rank is silent for too long, if it is."""
        hang = self._plan.hang
        limits = (watch.since + watch.limit(hang) for watch in self._state.watches.values())
        over = min(limits, default=float("inf")) + _SHORTLY
        if hang.enabled and over < progress_at:
            self._agenda.put("silence", max(self._now, over), self._tick)

    def _dump(self, decision: do.DumpStacks) -> None:
        if self._round is None:  # else it is only slow, and its step may still come to its end
            self._turn(Bucket.DETECTION)
        culprit = None if self._struck is None else self._struck.group
        accounts = tuple(RankAccount(rank, waits=rank != culprit) for rank in decision.ranks)
        self._agenda.put("stacks", min(decision.by, self._now + 1), lambda: self._feed(on.StacksDumped(accounts)))

    def _kill(self) -> None:
        self._agenda.cancel("training", "first step", "finish", "bug", "silence", "noticed", "leave", "stacks")
        if self._round is not None:
            self._settle()
        self._turn(Bucket.CLEARING)
        self._agenda.put("gone", self._now + self._plan.clear_seconds, lambda: self._gone(_KILLED))

    # --- stops

    def _next_preemption(self) -> None:
        if self._plan.preemptions_per_day:
            at = self._now + self._preempted.expovariate(self._plan.preemptions_per_day / DAY)
            self._agenda.put("preemption", at, self._preempt)

    def _preempt(self) -> None:
        self._next_preemption()
        if self._state.phase is Phase.ENDED:
            return  # it waits in the queue, or is over
        self._accounts.preemptions += 1
        self._accounts.cause = "preemption"
        self._feed(on.StopRequested(on.StopKind.PREEMPTION, self._plan.grace_seconds))

    def _asked(self) -> None:
        """The workers leave after the step they are in, unless they stand still; and the core looks at its times."""
        self._agenda.cancel("stacks")
        stop, grace, at = self._plan.stop, self._plan.grace_seconds, self._state.stop_asked_at
        if self._round is not None and self._struck is None:
            boundary = self._round.complete_at(self._round.steps_by(self._now) + 1)
            self._agenda.put("leave", boundary + self._costs.stall, self._leave)
        self._agenda.put("to signal", max(self._now, at + stop.ask_fraction * grace) + _SHORTLY, self._tick)
        self._agenda.put("to kill", max(self._now, at + stop.term_fraction * grace) + 2 * _SHORTLY, self._tick)

    def _leave(self) -> None:
        self._settle(Bucket.STOPPING)
        self._held.memory = self._reached
        self._gone()

    def _flush(self, decision: do.FlushMemory) -> None:
        self._turn(Bucket.STOPPING)
        self._agenda.cancel("list", "restore", "late restore", "wait")
        held = self._held
        local_at = self._now + (self._costs.local if held.memory not in (None, *held.local) else 0.0)
        remote_at = local_at + (self._costs.remote if held.memory not in (None, *held.remote) else 0.0)
        by = float("inf") if decision.by is None else max(self._now, decision.by)
        flushed = partial(self._flushed, local=local_at <= by, remote=remote_at <= by)
        self._agenda.put("flush", min(remote_at, by), flushed)

    def _flushed(self, *, local: bool, remote: bool) -> None:
        self._held.flush(local=local, remote=remote)
        late = "there was no more time"
        self._feed(
            on.FlushEnded(
                self._held.newest_durable,
                problem=None if local else late,
                late=not local,
                remote_problem=None if remote or not local else late,
            )
        )

    def _record(self, decision: do.RecordIncident) -> None:
        self._accounts.incidents[decision.incident.failure.failure_class.value] += 1

    def _end(self, decision: do.EndRun) -> None:
        self._agenda.clear_all_but(*_OF_THE_WORLD)
        if decision.exit_code is ExitCode.REQUEUE:
            self._turn(Bucket.PREEMPTED)
            self._held.lose_all()
            wait = self._queue.expovariate(1 / self._plan.requeue_seconds) if self._plan.requeue_seconds else 0.0
            self._agenda.put("requeue", self._now + wait, self._open_again)
            return
        self._turn(Bucket.ENDED)
        self._ended = (int(decision.exit_code), decision.diagnosis, self._now)

    def _open_again(self) -> None:
        """A supervisor on other machines takes the run up, with what is written down of it."""
        before = self._state
        self._spares.others(self._now)
        self._state = RunState(settings=before.settings)
        self._feed(
            on.RunOpened(
                last_round=before.round,
                incidents=before.incidents,
                step=self._held.newest_durable or 0,
                history=before.history,
                durations=before.durations,
                lineage=before.lineage,
            )
        )


def simulate(plan: Plan, kinds: tuple[Kind, ...] = LLAMA3) -> Outcome:
    """Carry the plan out on paper."""
    return Simulation(plan, kinds).run()
