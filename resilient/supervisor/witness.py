"""Gathers what is known of a failure: while the workers run, when one is gone, and when the incident is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.policy.decisions import RecordIncident
from resilient.policy.failures import Evidence
from resilient.policy.state import RunState
from resilient.protocol.launch import WorkerError
from resilient.protocol.paths import RunPaths
from resilient.protocol.torch_error import read_torch_error
from resilient.supervisor import processes
from resilient.supervisor.cgroup import MemoryCgroup
from resilient.supervisor.incident_files import Dossier, IncidentFiles, tail
from resilient.supervisor.kernel_log import KernelLog
from resilient.supervisor.memory_curve import MemoryCurve
from resilient.supervisor.surroundings import surroundings

_LOG_TAIL = 64 << 10


@dataclass(frozen=True)
class Testimony:
    """What a worker that is gone leaves behind.

    :param at: when the error was raised, on the supervisor's clock; None where no error was written.
    """

    evidence: Evidence
    at: float | None


class Witness:
    """Sees one supervisor's rounds, one after the other."""

    def __init__(
        self,
        paths: RunPaths,
        files: IncidentFiles,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        cgroup: MemoryCgroup | None = None,
        kernel: KernelLog | None = None,
        environment: Mapping[str, str] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self._paths = paths
        self._files = files
        self._clock = clock
        self._wall = wall
        self._cgroup = cgroup or MemoryCgroup()
        self._kernel = kernel or KernelLog()
        self._curve = MemoryCurve(self._cgroup, clock)
        self._environment = dict(environment or {})
        self._versions = dict(versions or {})
        self._round = -1
        self._began = clock()
        self._oom_kills = self._cgroup.oom_kills()
        self._workers: dict[int, int] = {}
        self._ranks: tuple[int, ...] = ()
        self._codes: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._trees: dict[int, list[processes.ProcessRecord]] = {}  # as they were before the kill; else as last sampled

    def begin_round(self, number: int, ranks: Sequence[int]) -> None:
        """A round is about to be launched: what was logged and written before is no evidence about it."""
        self._round, self._ranks, self._began = number, tuple(ranks), self._clock()
        self._oom_kills = self._cgroup.oom_kills()
        self._kernel.forget()
        self._curve.begin_round()
        for known in (self._workers, self._codes, self._starts, self._trees):
            known.clear()
        for rank in ranks:
            for file in (self._paths.error_file(number, rank), self._paths.torch_error_file(number, rank)):
                with suppress(OSError):
                    file.unlink()
            self._starts[rank] = _size(self._paths.log(number, rank))

    def launched(self, rank: int, pid: int) -> None:
        self._workers[rank] = pid

    def watch(self) -> None:
        """Look at the workers' memory, if it is time to. Call it often."""
        self._curve.watch(self._workers)

    def before_kill(self) -> None:
        """The group is about to be killed: note which processes there are."""
        for rank, pid in self._workers.items():
            if rank not in self._trees:
                found = (processes.describe(member) for member in processes.tree(pid, threads=True))
                self._trees[rank] = [record for record in found if record is not None]
        self._curve.watch(self._workers, now=True)

    def testify(self, rank: int, code: int, *, finished: bool = False) -> Testimony:
        """What is known of ``rank``, which is gone with exit code ``code``."""
        self._codes[rank] = code
        error = self._error(rank)
        known = error or WorkerError()
        log = tail(self._paths.log(self._round, rank), _LOG_TAIL, self._starts.get(rank, 0))
        evidence = Evidence(
            code,
            known.types,
            known.detail or known.message,
            announced_finish=finished,
            causes=known.causes,
            log=tuple(log.decode(errors="replace").splitlines()),
            kernel=self._kernel.lines(),
            oom_kills=max(0, self._cgroup.oom_kills() - self._oom_kills),
            processes=frozenset(process.pid for tree in self._curve.trees.values() for process in tree),
        )
        self._workers.pop(rank, None)
        return Testimony(evidence, self._on_our_clock(error.time) if error is not None and error.time else None)

    def _error(self, rank: int) -> WorkerError | None:
        """Ours says more, but is written only at the very end; torch's is there while the script tears down."""
        ours = WorkerError.read(self._paths.error_file(self._round, rank))
        if ours is not None:
            return ours
        file = self._paths.torch_error_file(self._round, rank)
        error = read_torch_error(file)
        if error is None:
            return None
        written = _modified(file)  # torch's timestamp is in whole seconds, too coarse to tell which rank was first
        precise = written if abs(written - error.time) < 2.0 else error.time
        return WorkerError(error.types, error.message, error.traceback, error.detail, error.causes, precise)

    def _on_our_clock(self, wall: float) -> float:
        now = self._clock()
        return min(now, max(self._began, now - (self._wall() - wall)))

    def record(self, decision: RecordIncident, state: RunState, *, of_workers: bool) -> Path:
        """Have the evidence written down. Returns where it will be.

        :param of_workers: the incident is about the round's workers, not about a snapshot or a request to stop.
        """
        incident = decision.incident
        body: dict[str, Any] = {
            "number": incident.number,
            "time": round(self._wall(), 3),
            "round": incident.round,
            "rank": incident.rank,
            "step": incident.step,
            "class": incident.failure.failure_class,
            "signature": incident.failure.signature,
            "message": incident.failure.text,
            "evidence": incident.failure.evidence,
            "others": incident.others,
            "remedy": incident.remedy,
            "charged": decision.charged is not None,
            "tried": {"failures": len(state.history.since_progress()), "without_progress": state.history.stuck},
            "exit_codes": {str(rank): code for rank, code in sorted(self._codes.items())} if of_workers else {},
        }
        around = surroundings(self._environment, self._versions)
        if of_workers:
            dossier = Dossier(
                incident.number,
                body,
                incident.round,
                self._ranks,
                self._curve.samples(),
                {**self._curve.trees, **self._trees},
                self._kernel.lines(),
                around,
            )
        else:
            dossier = Dossier(incident.number, body, surroundings=around)
        self._files.keep(dossier)
        return self._paths.incident(incident.number)

    def close(self) -> None:
        """Wait a little until all evidence is written."""
        self._files.close()
        self._kernel.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
