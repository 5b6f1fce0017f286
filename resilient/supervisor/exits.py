"""What a worker's end means: whether it has finished, left as it was asked to, or failed."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.policy.events import WorkerExited
from resilient.policy.failures import Evidence, Failure, FailureClass, classify, is_noise
from resilient.protocol.board import Board, Flag
from resilient.supervisor.launcher import Exited, Failed
from resilient.supervisor.settings import ExitMeaning
from resilient.supervisor.unmodified import UnmodifiedScript
from resilient.supervisor.witness import Witness

LEFT_ALONE = Failure(FailureClass.PREEMPTION, "SIGTERM reached the worker alone")
NOT_ATTACHED = Failure(
    FailureClass.UNFINISHED,
    "exit 0 without resilient.attach(); if exit 0 means finished, set worker.finished_by=exit_code",
)


def failure_of(report: Failed) -> Failure:
    """Why workers could not be started."""
    if report.hung:
        return Failure(FailureClass.HANG, report.reason)
    kind, _, message = report.reason.partition(": ")
    return classify(Evidence(1, (kind,), message))


@dataclass(frozen=True)
class Ends:
    """Reads ends of workers.

    :param script: what is known of a script that knows nothing of us.
    """

    script: UnmodifiedScript
    witness: Witness

    def asks_for_requeue(self, report: Exited, board: Board) -> bool:
        """Whether the script says by its exit code that it is to be started again later, though nobody asked it to."""
        return self._meaning(report, board, asked=False) is ExitMeaning.requeue

    def read(self, report: Exited, board: Board, *, asked: bool) -> WorkerExited:
        """The event for the decision core.

        :param asked: the run was asked to stop.
        """
        step = self.script.step(board)
        finished = board.has_flag(Flag.FINISHED)
        if report.code == 0 and finished:
            return WorkerExited(report.rank, step, finished=True)
        meaning = self._meaning(report, board, asked=asked)
        if meaning in (ExitMeaning.finished, ExitMeaning.requeue):
            return WorkerExited(report.rank, step, finished=meaning is ExitMeaning.finished)
        if meaning is ExitMeaning.stop:
            signature = f"the script ended with exit code {report.code}, for which worker.exit_codes says stop"
            return WorkerExited(report.rank, step, Failure(FailureClass.DECLARED, signature))
        if report.code == 0 and board.has_flag(Flag.LEFT_EARLY):
            return WorkerExited(report.rank, step, None if asked else LEFT_ALONE)
        if report.code == 0 and not board.has_flag(Flag.ATTACHED) and not self.script.expected:
            return WorkerExited(report.rank, step, NOT_ATTACHED)
        seen = self.witness.testify(report.rank, report.code, finished=finished)
        if is_noise(seen.evidence):
            return WorkerExited(report.rank, step, finished=True)
        return WorkerExited(report.rank, step, self.script.failure(classify(seen.evidence), board), at=seen.at)

    def _meaning(self, report: Exited, board: Board, *, asked: bool) -> ExitMeaning | None:
        if report.code == 0 and board.has_flag(Flag.FINISHED):
            return ExitMeaning.finished
        return self.script.meaning(report.code, board, asked=asked)
