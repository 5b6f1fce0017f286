"""What is done about a divergence, or a rollback that somebody asks for: everything of it that touches the disk, the
memory or another process. What is to be done is decided in :mod:`resilient.policy.rules`.

A rollback is written down before anything of it is acted on. Where that is not possible, for the disk is full, the run
goes on from the target all the same. What is durable stays until it is written down; what is in memory does not, for a
successor that knows nothing of the rollback would go on from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from resilient.errors import ResilientError, RunDirectoryNotWritable
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.lineage import Lineage, RollbackCause
from resilient.policy.state import Phase, RunState
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.distrusted import distrust
from resilient.protocol.lineage_file import write_lineage
from resilient.protocol.rollback_request import RollbackAnswer, RollbackRequest, answer, take_request
from resilient.snapshot.standing import told as told_on_disk
from resilient.supervisor.console import Console
from resilient.supervisor.detector_history import detector_at
from resilient.supervisor.divergence_sensor import DivergenceSensor, state_from
from resilient.supervisor.divergence_words import finding_in_words, rollback_in_words
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.persistence import Persistence
from resilient.supervisor.replaying import Replay
from resilient.supervisor.spec import RunSpec

_LOOK_SECONDS = 0.5  # between two looks for a request
_AGAIN_SECONDS = 5.0  # between two attempts to write the lineage
_UP = frozenset({Phase.STARTING, Phase.RUNNING, Phase.DUMPING, Phase.CLEARING, Phase.STOPPING})


class Diverging:
    """Carries out the decisions about divergence, and reports what comes of them."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        memory: RunMemory,
        persistence: Persistence,
        sensor: DivergenceSensor,
        console: Console,
        clock: Callable[[], float],
        feed: Callable[[on.Event], None],
        start_replay: Callable[[do.ReplayWindow], Replay],
    ) -> None:
        self._paths = spec.paths
        self._settings = spec.policy.divergence
        self._found_lineage = spec.lineage
        self._memory = memory
        self._persistence = persistence
        self._sensor = sensor
        self._console = console
        self._clock = clock
        self._feed = feed
        self._start_replay = start_replay
        self._lineage = Lineage()
        self._recorded = True  # the lineage is on disk
        self._again_at = math.inf
        self._look_at = -math.inf
        self._keeps_discarded = False  # there are discarded snapshots that are to be set aside when it is recorded
        self._asked: RollbackRequest | None = None
        self._replay: Replay | None = None
        self.handlers: Mapping[type[do.Decision], Callable[[Any], None]] = {
            do.SaveLineage: self._save_lineage,
            do.DiscardAfter: self._discard_after,
            do.ReportFinding: self._report_finding,
            do.RefuseRollback: self._refuse_rollback,
            do.ReplayWindow: self._replay_window,
            do.AbandonReplay: self._abandon_replay,
            do.DistrustNode: self._distrust_node,
        }

    # --- the lineage

    def open(self, told: Lineage | None) -> Lineage:
        """The lineage of the run, from its file or, where there is none, from the snapshot that was made last.

        :param told: as the newest snapshot in the remote tier has it, if that is known.
        """
        lineage, on_disk = self._found_lineage, told_on_disk(self._paths.snapshots)
        if lineage is None:
            lineage = on_disk or told or Lineage()
        elif on_disk is not None and _continues(lineage, on_disk):
            lineage = on_disk  # it could not be written down before the supervisor was gone
        if not lineage.pending:
            lineage = lineage.resolved(self._memory.boards[0].skips)
        self._lineage = lineage
        self._persistence.adopt_lineage(lineage)
        if lineage != (self._found_lineage or Lineage()):
            self._write()
        return lineage

    def _save_lineage(self, decision: do.SaveLineage) -> None:
        before, self._lineage = self._lineage, decision.lineage
        self._persistence.follow(self._lineage)
        rollback = self._lineage.rollbacks[-1] if self._lineage.pending else None
        if rollback is not None and _place(before) != _place(self._lineage):
            self._console.say(rollback_in_words(rollback, before.lr_factor))
            if self._asked is not None and rollback.cause is RollbackCause.REQUEST:
                self._answer(RollbackAnswer(self._asked.id, accepted=True, target=rollback.target))
        self._write()

    def _write(self) -> None:
        try:
            write_lineage(self._paths, self._lineage)
        except RunDirectoryNotWritable as error:
            if self._recorded:
                held = " What the rollback discards is kept until it is written down." if self._lineage.pending else ""
                self._console.say(f"WARNING: {error.problem}; training goes on, and it is tried again.{held}")
            self._recorded, self._again_at = False, self._clock() + _AGAIN_SECONDS
            return
        self._recorded, self._again_at = True, math.inf
        if self._keeps_discarded:
            self._keeps_discarded = False
            self._persistence.set_aside()
        elif _is_over(self._lineage):
            self._persistence.delete_discarded()

    def _discard_after(self, decision: do.DiscardAfter) -> None:
        if self._recorded:
            self._persistence.discard_after(decision.step)
        else:
            self._persistence.forget_after(decision.step)
            self._keeps_discarded = True

    def begin_round(self, launch: do.LaunchRound, own_step: int) -> None:
        """Have the detectors go on where the round does.

        :param own_step: where a script begins that resumes from a checkpoint of its own.
        """
        step = launch.step or own_step
        if launch.source in (on.Tier.LOCAL, on.Tier.REMOTE):
            state = state_from(self._persistence.restored)
        else:
            state = self._sensor.state_at(step)
        if state is None or not step:
            state = detector_at(self._paths, self._settings, self._lineage, step)
        self._sensor.resume(step, state)

    def told_at(self, step: int) -> Mapping[str, Any]:
        """What the manifest of a snapshot of ``step`` is to say."""
        state = self._sensor.state_at(step)
        lineage = {"lineage": self._lineage.to_json()}
        return lineage if state is None else {"detector": state.to_json(), **lineage}

    # --- what is looked at now and then

    def judge(self, state: RunState) -> None:
        """Say what the detectors have made of the metrics that came in. Which data is left out was known before them,
        and is read first: with the next rollback nobody would ask for it any more.
        """
        self._look_at_skips(state)
        for judged in self._sensor.take():
            self._feed(judged)

    def poll(self, state: RunState) -> None:
        """What may have come in since the last look."""
        if self._clock() >= self._again_at:
            self._write()
        self._look_at_skips(state)
        self._look_for_request(state)
        if self._replay is not None and (verdict := self._replay.poll()) is not None:
            self._end_replay(verdict)

    def _look_at_skips(self, state: RunState) -> None:
        """Which data rollbacks leave out is known to rank 0, once it has resumed."""
        lineage = state.lineage
        if not lineage.unresolved or lineage.pending or state.phase not in _UP:
            return
        if skips := self._memory.boards[0].skips:
            self._feed(on.SkipResolved(skips))

    def _look_for_request(self, state: RunState) -> None:
        now = self._clock()
        if now < self._look_at or state.phase is Phase.NEW or self._asked is not None:
            return
        self._look_at = now + _LOOK_SECONDS
        try:
            request = take_request(self._paths)
        except (OSError, ValueError) as error:
            self._console.say(f"WARNING: {self._paths.rollback_request.name} cannot be read: {error}")
            return
        if request is not None:
            self._console.say("a rollback was asked for")
            self._asked = request
            self._feed(on.RollbackRequested(request.target, request.skip, request.lr_factor, request.id))

    # --- decisions

    def _report_finding(self, decision: do.ReportFinding) -> None:
        self._console.say(finding_in_words(decision.finding))

    def _refuse_rollback(self, decision: do.RefuseRollback) -> None:
        self._console.say(f"the rollback that was asked for is refused: {decision.why}")
        self._answer(RollbackAnswer(decision.request.request, accepted=False, why=decision.why))

    def _answer(self, given: RollbackAnswer) -> None:
        self._asked = None
        try:
            answer(self._paths, given)
        except OSError as error:
            self._console.say(f"WARNING: {self._paths.rollback_answer.name} cannot be written: {error.strerror}")

    def _replay_window(self, decision: do.ReplayWindow) -> None:
        first = decision.snapshot + 1
        self._console.say(f"running steps {first} to {decision.last} again, to see whether the hardware was right")
        try:
            self._replay = self._start_replay(decision)
        except OSError as error:
            self._end_replay(Verdict(VerdictKind.INCONCLUSIVE, f"the replay could not be started: {error.strerror}"))

    def _end_replay(self, verdict: Verdict) -> None:
        self._replay = None
        self._console.say(f"the replay is {verdict.kind.value}: {verdict.reason}")
        self._feed(on.ReplayEnded(verdict))

    def _abandon_replay(self, _decision: do.AbandonReplay | None = None) -> None:
        if self._replay is not None:
            self._replay.abandon()
            self._replay = None

    def _distrust_node(self, decision: do.DistrustNode) -> None:
        try:
            distrust(self._paths, decision.reason, decision.incident)
        except ResilientError as error:
            self._console.say(f"WARNING: that this machine is not to be trusted is not written down: {error.problem}")

    @property
    def replay_pid(self) -> int | None:
        """Process number of the replay, if one is running."""
        return self._replay.pid if self._replay is not None else None

    def close(self) -> None:
        """The run has ended on this node."""
        if self._asked is not None:
            self._answer(RollbackAnswer(self._asked.id, accepted=False, why="the run has ended meanwhile"))
        self._abandon_replay()
        if not self._recorded:
            self._write()
        if not self._recorded and self._lineage.rollbacks:
            last = self._lineage.rollbacks[-1]
            self._console.say(
                f"WARNING: the rollback {last.told} is not written down, and the next start may know nothing of it; "
                f"when there is room: resilient rollback run={self._paths.run_id} to=good"
            )


def _continues(known: Lineage, told: Lineage) -> bool:
    """Whether ``told`` has all rollbacks of ``known``, and more."""
    rounds = [[back.round for back in lineage.rollbacks] for lineage in (known, told)]
    return len(rounds[1]) > len(rounds[0]) and rounds[1][: len(rounds[0])] == rounds[0]


def _place(lineage: Lineage) -> tuple[Any, ...]:
    """What of the last rollback somebody wants to be told when it changes."""
    last = lineage.rollbacks[-1] if lineage.rollbacks else None
    return (len(lineage.rollbacks), *((last.target, last.skip, last.lr_factor, last.cause) if last is not None else ()))


def _is_over(lineage: Lineage) -> bool:
    """Whether nothing is left to be learned from what was discarded: training has come past it, and well."""
    if not lineage.rollbacks or lineage.pending or lineage.ladder.until is not None:
        return False
    reached = lineage.rollbacks[-1].reached
    return any(snapshot.step > reached for snapshot in lineage.known.snapshots)
