"""``incidents/NNNN/``: the evidence of each incident, kept where a person finds it.

A thread of its own writes, so that a disk that is slow or does not answer delays no relaunch, and whatever goes wrong
is said on the console and forgotten: evidence is worth less than the run. ``incident.json`` is written last; a
directory without it is incomplete.
"""

from __future__ import annotations

import csv
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import plain
from resilient.supervisor.memory_curve import Sample
from resilient.supervisor.processes import ProcessRecord

_LOG_TAIL = 64 << 10  # bytes of each rank's log
_ALL_LOGS = 4 << 20
_ERROR_FILE = 256 << 10
_MOST_ERROR_FILES = 64
_WAITING = 100


@dataclass(frozen=True)
class Dossier:
    """All that is known of one incident when it is recorded.

    :param number: of the incident.
    :param round: whose logs and error files belong to it, or None.
    :param ranks: those of the group; of the first ones more is kept, if there is not room for all.
    """

    number: int
    body: Mapping[str, Any]
    round: int | None = None
    ranks: Sequence[int] = ()
    samples: Sequence[Sample] = ()
    processes: Mapping[int, Sequence[ProcessRecord]] = field(default_factory=dict)
    kernel: Sequence[str] = ()
    surroundings: Mapping[str, Any] = field(default_factory=dict)


class IncidentFiles:
    """Writes dossiers, and removes those in the middle when there are many."""

    def __init__(
        self, paths: RunPaths, tell: Callable[[str], None], *, keep_first: int = 10, keep_last: int = 90
    ) -> None:
        """Nothing is created before the first incident.

        :param tell: takes what a person should know, such as that the disk is full.
        """
        self._paths = paths
        self._tell = tell
        self._keep = (keep_first, keep_last)
        self._queue: queue.Queue[Dossier] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def keep(self, dossier: Dossier) -> None:
        """Have it written. Returns at once."""
        try:
            self._start()
            self._queue.put_nowait(dossier)
        except queue.Full:
            self._tell(f"incident {dossier.number}: its evidence is not kept; the disk has not answered for long")
        except RuntimeError as error:  # no more threads: perhaps what the workers have failed for, too
            self._tell(f"incident {dossier.number}: its evidence is not kept: {error}")

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._write_all, name="resilient-incidents", daemon=True)
            thread.start()
            self._thread = thread

    def close(self, seconds: float = 5.0) -> None:
        """Wait until all is written, but not for ever."""
        deadline = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _write_all(self) -> None:
        while True:
            dossier = self._queue.get()
            try:
                self._write(dossier)
                self._remove_the_middle()
            except Exception as error:  # noqa: BLE001  whatever it is, the run goes on without this evidence
                self._tell(f"incident {dossier.number}: its evidence could not be kept: {error}")
            finally:
                self._queue.task_done()

    def _write(self, dossier: Dossier) -> None:
        place = self._paths.incident(dossier.number)
        place.mkdir(parents=True, exist_ok=True)
        problems = []
        for part in (self._write_logs, self._write_errors, _write_curve, _write_processes, _write_rest):
            try:
                part(place, dossier)
            except OSError as error:  # a log that cannot be read is no reason to leave out the rest
                problems.append(f"{part.__name__.strip('_').replace('_', ' ')}: {error}")
        _write_json(place / "incident.json", {**dossier.body, "not_kept": problems})

    def _write_logs(self, place: Path, dossier: Dossier) -> None:
        if dossier.round is None or not dossier.ranks:
            return
        most = max(1 << 10, min(_LOG_TAIL, _ALL_LOGS // len(dossier.ranks)))
        for rank in dossier.ranks[: _ALL_LOGS // most]:
            text = tail(self._paths.log(dossier.round, rank), most)
            if text:
                (place / f"rank-{rank:05d}.log").write_bytes(text)

    def _write_errors(self, place: Path, dossier: Dossier) -> None:
        for rank in dossier.ranks[:_MOST_ERROR_FILES] if dossier.round is not None else ():
            assert dossier.round is not None  # noqa: S101  asked in the line above
            for source in (
                self._paths.error_file(dossier.round, rank),
                self._paths.torch_error_file(dossier.round, rank),
            ):
                if source.is_file() and source.stat().st_size <= _ERROR_FILE:
                    shutil.copyfile(source, place / source.name)

    def _remove_the_middle(self) -> None:
        first, last = self._keep
        found = sorted((int(path.name), path) for path in self._paths.incidents.iterdir() if path.name.isdecimal())
        for _, path in found[first : max(first, len(found) - last)]:
            shutil.rmtree(path, ignore_errors=True)


def tail(path: Path, most: int, start: int = 0) -> bytes:
    """The last whole lines of a file, at most ``most`` bytes, of what was written from ``start`` on."""
    try:
        size = path.stat().st_size
        begin = max(start if start <= size else 0, size - most)
        with path.open("rb") as stream:
            stream.seek(begin)
            data = stream.read(most)
    except OSError:
        return b""
    if begin > start and b"\n" in data[:-1]:
        return data.partition(b"\n")[2]
    return data


def _write_curve(place: Path, dossier: Dossier) -> None:
    if not dossier.samples:
        return
    ranks = sorted({rank for sample in dossier.samples for rank, _ in sample.ranks})
    last = dossier.samples[-1].at
    with (place / "memory.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["seconds", "available", "cgroup_used", "cgroup_limit", *(f"rank_{rank}" for rank in ranks)])
        for sample in dossier.samples:
            sizes = dict(sample.ranks)
            row = [f"{sample.at - last:.1f}", sample.available, sample.used, sample.limit]
            rows.writerow([*row, *(sizes.get(rank, "") for rank in ranks)])


def _write_processes(place: Path, dossier: Dossier) -> None:
    if dossier.processes:
        _write_json(place / "processes.json", {str(rank): list(tree) for rank, tree in dossier.processes.items()})


def _write_rest(place: Path, dossier: Dossier) -> None:
    if dossier.kernel:
        (place / "kernel.log").write_text("\n".join(dossier.kernel) + "\n")
    if dossier.surroundings:
        _write_json(place / "environment.json", dossier.surroundings)


def _write_json(path: Path, body: Any) -> None:
    path.write_text(json.dumps(plain(body), indent=1) + "\n")
