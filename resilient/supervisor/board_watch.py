"""What the boards of a round say: metrics, progress, requests, and what phases and ranks take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from resilient.policy.events import OwnTimesSeen, RanksProgressed, WorkerProgressed
from resilient.policy.state import Phase, RunState
from resilient.policy.stragglers import OwnTime
from resilient.protocol.board import Board, Word, WorkerPhase
from resilient.protocol.metrics_log import MetricsLog
from resilient.supervisor.agreement import pass_on_termination, release_unfulfilled
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.time_notes import NOTE_SECONDS, SPENT, spent

_LOOK_SECONDS = 0.5  # between two looks at what phases and ranks take
_COST_PART = 200  # what phases take is looked at for a two-hundredth of the time at most, with however many ranks
_PHASE_NAMES: Mapping[int, str] = {
    WorkerPhase.STARTUP: "startup",
    WorkerPhase.RESTORE: "startup",
    WorkerPhase.STEP: "step",
    WorkerPhase.EVALUATION: "eval",
    WorkerPhase.SAVE: "save",
    WorkerPhase.STOPPING: "stopping",
    WorkerPhase.FINISHED: "finished",
}


def phase_of(board: Board) -> str:
    """What a rank is doing, in a word."""
    return _PHASE_NAMES.get(board[Word.PHASE]) or board.phase_name


class BoardWatch:
    """Looks at the boards of all ranks, some twenty times a second.

    :ivar latest: what rank 0 has reported last, by metric.
    """

    def __init__(
        self,
        memory: RunMemory,
        metrics: MetricsLog,
        *,
        journal: Journal,
        console: Console,
        clock: Callable[[], float],
    ) -> None:
        self._memory = memory
        self._metrics = metrics
        self._journal = journal
        self._console = console
        self._clock = clock
        self._beats: dict[int, int] = {}
        self._moved: set[int] = set()  # ranks whose boards are to be looked at
        self._interval = 0
        self._looked_at = -math.inf
        self._noted_durations: Mapping[str, float] = {}
        self._next_durations = -math.inf
        self._noted_spent = -math.inf
        self.latest: dict[str, float] = {}

    def begin_round(self) -> None:
        """The boards are new ones."""
        self._beats.clear()
        self._moved.clear()
        self._noted_spent = self._clock()

    def adopt(self, round_number: int) -> None:
        """Take down what the workers of a killed predecessor had reported, in its last round."""
        self.collect_metrics(round_number)
        if any(board[Word.PID] for board in self._memory.boards.values()):
            self._journal.write("note", SPENT, self._clock(), **spent(self._own_boards(), round_number))

    def rank_ended(self, rank: int, state: RunState) -> None:
        """Take down what a rank has left, and with the last one what the round has spent its time on."""
        self._collect_metrics_of(rank, state.round)  # of it alone: when a group is killed, all end one after the other
        if state.live & {*self._memory.ranks} == {rank}:
            self._note_spent(state, self._clock())

    def collect_metrics(self, round_number: int) -> None:
        for rank in self._memory.ranks:  # other nodes log those of their ranks themselves
            self._collect_metrics_of(rank, round_number)

    def _collect_metrics_of(self, rank: int, round_number: int) -> None:
        found = self._metrics.take_down(self._memory.boards[rank], max(round_number, 0), rank)
        if found and not rank:
            self.latest.update(found[-1].metrics.values)

    def progress(self, live: AbstractSet[int]) -> WorkerProgressed | RanksProgressed | None:
        """Who of the live ranks has moved on since the last look; None where nobody has."""
        self._moved |= self._memory.moved()
        moved = tuple(self._progress(sorted(self._moved & live)))
        if len(moved) > 1:
            return RanksProgressed(moved)
        return moved[0] if moved else None

    def _progress(self, ranks: Iterable[int]) -> Iterator[WorkerProgressed]:
        for rank in ranks:
            board = self._memory.boards[rank]
            beats = board[Word.BEATS]
            if beats != self._beats.get(rank, 0):
                phase = phase_of(board)
                if beats != board[Word.BEATS]:
                    continue  # it has moved on while we read, and is read the next time
                self._beats[rank] = beats
                yield WorkerProgressed(rank, board[Word.STEP], phase)
            self._moved.discard(rank)

    def pass_on_requests(self) -> None:
        """``resilient snapshot`` counts on rank 0's board; the workers obey each change of the count once."""
        boards = self._memory.boards
        asked = boards[0][Word.REQUESTS]
        if asked == boards[0][Word.SNAPSHOTS]:
            return
        for board in boards.values():
            board[Word.SNAPSHOTS] = asked
        self._journal.write("note", "snapshot asked for", self._clock(), step=boards[0][Word.STEP])
        self._console.say("a durable snapshot was asked for")

    def keep_ranks_together(self, state: RunState) -> None:
        """What one rank of several knows and the others do not, or holds and another cannot."""
        if len(self._memory.boards) == 1 or state.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        pass_on_termination(self._memory)
        if steps := release_unfulfilled(self._memory):
            self._journal.write("note", "not all ranks have an image", self._clock(), steps=steps)

    def note_interval(self) -> None:
        """Where the interval of durable snapshots is chosen from what they cost, it is chosen by rank 0."""
        board = self._memory.boards[0]
        if board[Word.INTERVAL] == self._interval or not board[Word.INTERVAL]:
            return
        self._interval = board[Word.INTERVAL]
        seconds, cost = self._interval / 1e3, board[Word.COST] / 1e6
        self._journal.write("note", "interval chosen", self._clock(), seconds=seconds, cost=cost)
        why = f"one costs {cost:.2f} s of training" if cost else "what one costs is not known yet"
        self._console.say(f"durable snapshots every {seconds:.0f} s from now on ({why})")

    def look_at_times(self, state: RunState) -> OwnTimesSeen | None:
        """Now and then: note what phases take, and say what each of several ranks takes on its own."""
        now = self._clock()
        if now - self._looked_at < _LOOK_SECONDS and state.phase is not Phase.FLUSHING:
            return None
        self._looked_at = now
        self._note_durations(state, now)
        if state.phase is Phase.RUNNING and now - self._noted_spent >= NOTE_SECONDS:
            self._note_spent(state, now)
        if state.phase is not Phase.RUNNING or len(self._memory.boards) == 1:
            return None
        return OwnTimesSeen(
            {
                rank: OwnTime(board[Word.STEP], board[Word.OWN_DATA] / 1e6, board[Word.OWN_COMPUTE] / 1e6)
                for rank, board in self._memory.boards.items()
                if board[Word.OWN_STEPS]
            }
        )

    def _own_boards(self) -> dict[int, Board]:
        """Those of this node: moments on another's boards are on another clock."""
        return {rank: self._memory.boards[rank] for rank in self._memory.ranks}

    def _note_spent(self, state: RunState, now: float) -> None:
        self._noted_spent = now
        self._journal.write("note", SPENT, now, **spent(self._own_boards(), state.round))

    def _note_durations(self, state: RunState, now: float) -> None:
        """A successor on this machine reads them in the journal; one elsewhere in the snapshot."""
        if now < self._next_durations and state.phase is not Phase.FLUSHING:
            return
        durations, noted = state.durations, self._noted_durations
        self._next_durations = now + _COST_PART * (self._clock() - now)
        if any(abs(seconds - noted.get(phase, 0.0)) > 0.5 * seconds for phase, seconds in durations.items()):
            self._noted_durations = durations
            self._journal.write("note", "phase durations", now, durations=durations)
