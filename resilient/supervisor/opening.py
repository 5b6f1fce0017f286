"""What is known of a run when a supervisor takes it over: from its journal, its directory, and its snapshots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from resilient.policy import events as on
from resilient.supervisor.diverging import Diverging
from resilient.supervisor.history import RunHistory, read_history
from resilient.supervisor.journal import read_journal, read_journals
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.persistence import Persistence
from resilient.supervisor.remote import RemoteCopies
from resilient.supervisor.spec import RunSpec


class Opening:
    """Reads it once.

    :ivar last_round: the last that this machine knows of; -1 for none.
    """

    def __init__(self, spec: RunSpec, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._clock = clock
        self._opened_at = clock()
        # of several nodes, another may have decided before
        several = spec.policy.nodes is not None
        self._history = read_history(read_journals(spec.paths) if several else read_journal(spec.paths.journal))
        # The journal has a round whose supervisor was killed before it made a directory for its logs; directories are
        # there of rounds that are in other nodes' journals.
        self.last_round = max(spec.paths.last_round(), self._history.last_round)

    @property
    def history(self) -> RunHistory:
        """What happened until now."""
        return replace(self._history, up=self._history.up + self._clock() - self._opened_at)

    def event(
        self, memory: RunMemory, persistence: Persistence, remote: RemoteCopies | None, diverging: Diverging
    ) -> on.RunOpened | None:
        """What the core is to know; None while that is not known. Where there is nothing on this machine, the lineage
        has to come from the remote tier.
        """
        newest = max(memory.newest_step() or 0, persistence.durable or 0)
        if self._spec.lineage is None and not newest and remote is not None and not remote.ready(nearer=False):
            return None
        told = remote.told if remote is not None else None
        lineage = diverging.open(told[0] if told is not None else None)
        # A round must be later than all whose snapshots a rollback has discarded, on whatever machine they were.
        rounds = [rollback.round for rollback in lineage.rollbacks] + ([told[1]] if told is not None else [])
        return on.RunOpened(
            self._spec.takeover,
            max(self.last_round, *rounds) if rounds else self.last_round,
            max(self._history.incidents, self._spec.paths.last_incident()),
            newest,
            history=self._history.failed.on_clock(self._clock()),
            durations=self._history.durations,
            lineage=lineage,
            group=self._history.group,
        )
