"""What a worker's end means: whether it has finished, left as it was asked to, or failed."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.policy.events import WorkerExited
from resilient.policy.failures import Failure, FailureClass, classify, is_noise
from resilient.protocol.board import Board, Flag, Word
from resilient.supervisor.launcher import Exited
from resilient.supervisor.settings import FinishedBy
from resilient.supervisor.witness import Witness

LEFT_ALONE = Failure(FailureClass.PREEMPTION, "SIGTERM reached the worker alone")
NOT_ATTACHED = Failure(
    FailureClass.UNFINISHED,
    "exit 0 without resilient.attach(); if exit 0 means finished, set worker.finished_by=exit_code",
)


@dataclass(frozen=True)
class Ends:
    """Reads ends of workers.

    :param finished_by: what makes exit 0 the end of the run.
    """

    finished_by: FinishedBy
    witness: Witness

    def read(self, report: Exited, board: Board, *, asked: bool) -> WorkerExited:
        """The event for the decision core.

        :param asked: the run was asked to stop.
        """
        step = board[Word.STEP]
        finished, left_early = board.has_flag(Flag.FINISHED), board.has_flag(Flag.LEFT_EARLY)
        if report.code == 0 and finished:
            return WorkerExited(report.rank, step, finished=True)
        if report.code == 0 and self.finished_by is FinishedBy.exit_code and not left_early:
            # a script that ends with 0 because it was asked to stop has not finished
            return WorkerExited(report.rank, step, finished=not asked)
        if report.code == 0 and left_early:
            return WorkerExited(report.rank, step, None if asked else LEFT_ALONE)
        if report.code == 0 and not board.has_flag(Flag.ATTACHED):
            return WorkerExited(report.rank, step, NOT_ATTACHED)
        seen = self.witness.testify(report.rank, report.code, finished=finished)
        if is_noise(seen.evidence):
            return WorkerExited(report.rank, step, finished=True)
        return WorkerExited(report.rank, step, classify(seen.evidence), at=seen.at)
