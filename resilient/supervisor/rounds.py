"""What a round is launched with: fresh boards, a plan that all workers read, and a specification for each of them."""

from __future__ import annotations

from pathlib import Path

from resilient.policy.decisions import LaunchRound
from resilient.policy.events import Tier
from resilient.policy.interval import expected_failure_seconds
from resilient.policy.lineage import Lineage
from resilient.protocol.board import Word
from resilient.protocol.environment import PLAN, Rendezvous, WorkerEnvironment
from resilient.protocol.launch import LaunchSpec
from resilient.protocol.plan import RoundPlan
from resilient.supervisor.divergence_words import lineage_in_words
from resilient.supervisor.history import RunHistory
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.other_nodes import OtherNodes
from resilient.supervisor.ports import FreshPort
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.unmodified import Start

_START_SECONDS = 10.0  # what a start on another machine takes, beside reading the snapshot


def in_words(launch: LaunchRound, start: Start, lineage: Lineage) -> str:
    """What a round begins with, in a line."""
    source = start.source or ("its own checkpoint, if it finds one" if start.finds_itself else "the beginning")
    if launch.source is not None:
        source = f"step {launch.step} in {launch.source.value}"
    otherwise = lineage_in_words(lineage)
    return f"round {launch.round}: starting from {source}{f', {otherwise}' if otherwise else ''}"


class Rounds:
    """Prepares one round after the other."""

    def __init__(self, spec: RunSpec, memory: RunMemory, others: OtherNodes) -> None:
        self._spec = spec
        self._memory = memory
        self._others = others
        self._port = FreshPort()

    def prepare(
        self,
        launch: LaunchRound,
        start: Start,
        history: RunHistory,
        lineage: Lineage,
        identity: str | None,
        *,
        ranks: int,
    ) -> list[LaunchSpec]:
        """Leave everything where the workers of the round will look for it.

        :param start: what a script that knows nothing of us begins with.
        :param history: of the run, up to now.
        :param lineage: says which data is left out, and how far the learning rate is lowered.
        :param identity: of the snapshot that the round resumes from.
        :param ranks: how many train together, on all nodes.
        """
        paths, spec = self._spec.paths, self._spec
        self._memory.forget_newer(launch.step)
        self._memory.renew_boards()
        for board in self._memory.boards.values():
            board[Word.STEP] = board[Word.START_STEP] = launch.step or start.step
        paths.round_logs(launch.round).mkdir(parents=True, exist_ok=True)
        plan = RoundPlan(
            run_id=paths.run_id,
            run_root=str(paths.root),
            round=launch.round,
            memory_dir=str(self._memory.directory),
            restore_step=launch.step,
            lineage=identity,
            failure_seconds=expected_failure_seconds(spec.snapshot.failure_seconds, history.up, history.losses),
            restart_seconds=_START_SECONDS + history.restore,
            snapshot=spec.snapshot,
            fingerprint=spec.fingerprint,
            train=spec.train,
            skips=lineage.skips,
            skip_steps=lineage.unresolved,
            lr_factor=lineage.lr_factor,
            stop_after=spec.stop_after,
            reshard_from=self._reshard_from(launch),
        )
        plan_file = self._memory.write_plan(plan)
        rendezvous = Rendezvous(
            paths.run_id,
            address=self._others.address,
            port=self._port.take(),
            round=launch.round,
            most_restarts=spec.policy.restarts.max_failures,
        )
        return [self._spec_of(rank, ranks, rendezvous, plan_file, start) for rank in range(ranks)]

    def _reshard_from(self, launch: LaunchRound) -> str | None:
        """The durable snapshot that the round resumes from, where that may be dealt out otherwise."""
        if launch.step is None or launch.source is not Tier.LOCAL or not self._spec.allow_reshard:
            return None
        return str(self._spec.paths.snapshot(launch.step))

    def _spec_of(self, rank: int, ranks: int, rendezvous: Rendezvous, plan_file: Path, start: Start) -> LaunchSpec:
        worker, paths, round_number = self._spec.worker, self._spec.paths, rendezvous.round
        place = self._others.place(rank)
        identity = WorkerEnvironment(
            plan_file,
            rank,
            place.local_rank,
            ranks,
            place.local_world_size,
            place.group_rank,
            place.group_world_size,
        )
        variables = identity.variables(rendezvous)
        if worker.unmodified and ranks == 1:
            # A script that finds RANK in its environment takes itself for one of a group, and looks for the others.
            variables = {PLAN: variables[PLAN]}
        return LaunchSpec(
            rank=rank,
            script=worker.script or None,
            module=worker.module or None,
            arguments=(*worker.args, *start.arguments),
            directory=str(self._spec.directory),
            environment={
                **worker.env,
                **variables,
                "TORCHELASTIC_ERROR_FILE": str(paths.torch_error_file(rendezvous.round, rank)),
            },
            log=str(paths.log(round_number, rank)),
            error_file=str(paths.error_file(round_number, rank)),
            log_max_bytes=self._spec.logs.max_bytes,
            log_keep=self._spec.logs.keep,
            board=str(self._memory.boards[rank].path) if worker.unmodified else None,
        )

    def close(self) -> None:
        self._port.close()
