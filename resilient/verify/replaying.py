"""One replay: a scratch run that begins with the snapshot, watched until it has done what it was to."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import SnapshotNotFound
from resilient.policy.comparison import CONFIRMING, Records, Replay, Want, first_difference
from resilient.protocol.drill import DRILLED, Order, is_drilled
from resilient.protocol.environment import DETERMINISTIC
from resilient.protocol.lineage_file import write_lineage
from resilient.protocol.paths import RunPaths
from resilient.supervisor.scratch_run import ScratchRun
from resilient.supervisor.status import Status
from resilient.verify.places import Surroundings
from resilient.verify.window import Window, read_run

_POLL_SECONDS = 0.05
_UNDETERMINED = re.compile(r"(\S+) does not have a deterministic implementation")
_SILENT = {"WANDB_MODE": "disabled"}  # a replay is no experiment
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # without it torch takes all of cuBLAS for not deterministic


@dataclass(frozen=True)
class Replayer:
    """Makes replays of one window.

    :param into: directory that their scratch runs are made in.
    :param deadline: on ``clock``; what is not done by then has failed.
    """

    window: Window
    into: Path
    deadline: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def replay(self, want: Want, surroundings: Surroundings, number: int) -> Replay:
        """Run the steps until all are done; or, where one differs, a few more.

        :param number: of the replay, for a name of its own.
        :raises SnapshotNotFound: it was deleted meanwhile.
        """
        kind = "deterministic" if want.deterministic else want.place.value
        with self._scratch_run(f"{number}-{kind}", want, surroundings) as run:
            run.spawn()
            records, problem = self._follow(run)
            warnings = undetermined(run.paths) if want.deterministic else ()
        return Replay(want.place, records, problem, want.deterministic, warnings)

    @contextmanager
    def _scratch_run(self, name: str, want: Want, surroundings: Surroundings) -> Iterator[ScratchRun]:
        """What it needs to be started; afterwards its logs are left, and nothing else."""
        window, paths = self.window, RunPaths.of(self.into, name)
        environment = {**surroundings.environment, DRILLED: "", **_SILENT}
        if want.deterministic:
            environment |= {DETERMINISTIC: "1", _CUBLAS: os.environ.get(_CUBLAS, ":4096:8")}
        memory_dir = str((window.tree.get("snapshot") or {}).get("memory_dir", ""))
        overrides = [*self._overrides(), *surroundings.overrides]
        run = ScratchRun(paths, str(window.paths.config), overrides, memory_dir, environment, surroundings.cores)
        run.close()  # what one of the same name has left that was killed
        shutil.rmtree(paths.root, ignore_errors=True)
        paths.create()
        try:
            if window.snapshot:
                link(window.paths.snapshot(window.snapshot), paths.snapshot(window.snapshot))
            write_lineage(paths, window.lineage)
            order = Order.read(window.paths) if is_drilled(window.paths) else None
            if order is not None and order.persistent:
                order.write(paths)
                run.environment = {**environment, DRILLED: str(paths.root)}
            yield run
        finally:
            run.close()
            shutil.rmtree(paths.snapshots, ignore_errors=True)

    def _overrides(self) -> Iterator[str]:
        """The same configuration, of a run that only computes. All hashes are on: they are compared among replays."""
        yield from ("remote.url=''", f"run.stop_after={self.window.last}")
        yield from ("snapshot.memory=false", "snapshot.auto=false", "snapshot.slots=2")
        yield from ("divergence.enabled=false", "divergence.respond=false")
        yield from (f"fingerprint.{name}=true" for name in ("batch", "gradients", "parameters"))
        yield from (f"restarts.{name}=1" for name in ("max_failures", "crash_loop"))

    def _follow(self, run: ScratchRun) -> tuple[Records, str]:
        """What it reports, until that is enough; and why it is not, if it is not."""
        original, names = self.window.records, self.window.names
        while True:
            code, late = run.poll(), self.clock() >= self.deadline
            records = read_run(run.paths, names).records
            found = first_difference(original, records, names)
            last = max(original)
            until = last if found is None else min(last, found.step + CONFIRMING)
            if covers(records, original, until):
                return {step: record for step, record in records.items() if step <= until}, ""
            if code is not None or late:
                return records, self._problem(run, records, code, until)
            self.sleep(_POLL_SECONDS)

    def _problem(self, run: ScratchRun, records: Records, code: int | None, until: int) -> str:
        if until in records:
            return ""  # it reports less of that step than the run did
        reached = f"it came to step {max(records)} of {until}" if records else "it reported nothing"
        if code is None:
            return f"there was no time for more: {reached}"
        status = Status.read(run.paths.status)
        said = (status.diagnosis if status is not None else "") or run.last_words(300)
        return f"{reached} and ended with exit code {code}: {said}"


def covers(records: Records, original: Records, until: int) -> bool:
    """Whether everything is there that the run has reported of the steps up to ``until``. Ranks report one after the
    other, and a rank reports its steps in order.
    """
    furthest: dict[int, int] = {}
    for step, record in records.items():
        for rank, _ in record:
            furthest[rank] = max(furthest.get(rank, 0), step)
    return all(
        place in records.get(step, {}) or furthest.get(place[0], 0) > step
        for step, record in original.items()
        if step <= until
        for place in record
    )


def link(snapshot: Path, to: Path) -> None:
    """Have the snapshot in another directory too, without a second copy where the filesystem allows it."""
    to.mkdir(parents=True)
    try:
        for file in snapshot.iterdir():
            try:
                os.link(file, to / file.name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(file, to / file.name)
    except FileNotFoundError as error:
        raise SnapshotNotFound(f"the snapshot {snapshot} was deleted meanwhile", "take another") from error


def undetermined(paths: RunPaths) -> tuple[str, ...]:
    """The operations that torch says it has no deterministic algorithm for."""
    found: set[str] = set()
    for log in sorted(paths.root.glob("logs/round-*/rank-*.log")):
        found.update(_UNDETERMINED.findall(log.read_text(errors="replace")))
    return tuple(f"torch has no deterministic algorithm for {name}" for name in sorted(found))
