"""What must hold after a campaign, whatever was done to the run. Each check yields what is wrong, in words."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from resilient.errors import ResilientError
from resilient.protocol.metrics_log import Entry as MetricsEntry
from resilient.protocol.names import snapshot_step
from resilient.protocol.paths import RunPaths
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import catalog
from resilient.snapshot.bucket_fsspec import open_bucket
from resilient.snapshot.compare import first_difference
from resilient.snapshot.lying import whole_image
from resilient.snapshot.remote import RemoteTier, current
from resilient.supervisor.status import Status
from tests.chaos.plan import STEPS
from tests.chaos.scheduler import ChaosWorkspace, History

Entry = dict[str, Any]
_SHARED = Path("/dev/shm")


class Case(Protocol):
    """A run, on one node or several."""

    run_id: str

    @property
    def paths(self) -> RunPaths: ...
    def entries(self) -> list[MetricsEntry]: ...
    def losses(self, rank: int) -> dict[int, float]: ...
    def conflicting_losses(self) -> dict[tuple[int, int], set[float]]: ...
    def image(self, step: int, rank: int) -> bytes: ...


class Tried(Protocol):
    """What of a plan the checks must know; see :class:`~tests.chaos.plan.Plan`."""

    @property
    def ranks(self) -> int: ...
    @property
    def remote(self) -> bool: ...
    @property
    def slots(self) -> int: ...
    @property
    def keep(self) -> int: ...
    @property
    def memory_every_steps(self) -> int: ...


@dataclass
class Evidence:
    """A campaign that is over.

    :param reference: the run that nothing happened to.
    :param journal: entries in order.
    """

    workspace: ChaosWorkspace
    case: Case
    reference: Case
    plan: Tried
    history: History
    journal: list[Entry]

    @property
    def paths(self) -> RunPaths:
        return self.case.paths


def problems(evidence: Evidence) -> list[str]:
    """Everything that is wrong."""
    checks = (
        processes,
        results,
        leftovers,
        torch_leftovers,
        status,
        lives,
        rounds,
        incidents,
        commits,
        launches,
        remote,
    )
    return [f"{check.__name__}: {problem}" for check in checks for problem in check(evidence)]


def read_strictly(path: Path) -> list[Entry]:
    """The journal, every line of it.

    :raises ValueError: one cannot be read.
    """
    return [json.loads(line) for line in path.read_bytes().splitlines() if line]


def processes(evidence: Evidence) -> Iterator[str]:
    """Nothing of the run is alive."""
    for process in evidence.workspace.wait_until_alone(5.0):
        with contextlib.suppress(Exception):
            yield f"process {process.pid} is left: {process.cmdline()}"


def results(evidence: Evidence) -> Iterator[str]:
    """Every loss and the final state are those of the clean run, bit for bit."""
    for rank in range(evidence.plan.ranks):
        found, expected = evidence.case.losses(rank), evidence.reference.losses(rank)
        if found != expected:
            different = sorted(step for step in found.keys() | expected.keys() if found.get(step) != expected.get(step))
            yield f"losses of rank {rank} differ in steps {different[:10]} ({len(different)} in all)"
        try:
            difference = first_difference(evidence.case.image(STEPS, rank), evidence.reference.image(STEPS, rank))
        except OSError as error:
            yield f"there is no final image of rank {rank}: {error}"
            continue
        if difference is not None:
            yield f"the final image of rank {rank} differs: {difference}"
    if conflicting := evidence.case.conflicting_losses():
        yield f"steps done again gave other losses: {sorted(conflicting)[:10]}"


def leftovers(evidence: Evidence) -> Iterator[str]:
    """Nothing temporary is left, neither in the run directory nor in shared memory, and the lock is given back."""
    paths = evidence.paths
    if (_SHARED / paths.memory_name).exists():
        yield f"{paths.memory_name} is left in shared memory"
    for path in paths.snapshots.iterdir():
        known = path.name == "latest" or snapshot_step(path.name.partition(catalog.CORRUPT)[0]) is not None
        if not known:
            yield f"snapshots/{path.name} is left"
    for path in paths.root.iterdir():
        if path.name.startswith(".") or path.name == "memory":
            yield f"{path.name} is left in the run directory"
    for lock in paths.locks():
        if lock.read_bytes():
            yield f"{lock.name} is not given back"
    if paths.latest.resolve().name != paths.snapshot(STEPS).name:
        yield f"latest is {paths.latest.resolve().name}"


def torch_leftovers(evidence: Evidence) -> Iterator[str]:
    """Nor is anything left that torch's DataLoader makes."""
    for pid in (evidence.workspace.directory / "pids").iterdir():
        for path in _SHARED.glob(f"torch_{pid.name}_*"):
            path.unlink(missing_ok=True)
            yield f"{path} is left"
    for path in evidence.workspace.temporary.iterdir():
        if path.name.startswith("torchinductor_"):
            continue  # a cache, one for each user
        yield f"{path.name} is left in the directory for temporary files"


def status(evidence: Evidence) -> Iterator[str]:
    """``status.json`` says what happened."""
    found = Status.read(evidence.paths.status)
    if found is None:
        yield "it cannot be read"
        return
    launched = [entry["data"]["round"] for entry in evidence.journal if entry["name"] == "LaunchRound"]
    expected = ("finished", STEPS, STEPS, launched[-1], 0)
    said = (found.state, found.step, found.total, found.round, found.exit_code)
    if said != expected:
        yield f"it says {said}, not {expected}"


def lives(evidence: Evidence) -> Iterator[str]:
    """A supervisor that did not end the run left it to one that knew that, and the last one finished it."""
    ended, opened = True, False
    for entry in evidence.journal:
        if entry["name"] == "RunOpened":
            if opened and not ended and not entry["data"]["takeover"]:
                yield f"the supervisor at {entry['time']} did not notice that its predecessor was killed"
            ended, opened = False, True
        elif entry["name"] == "EndRun":
            if ended:
                yield f"the run was ended twice, at {entry['time']}"
            ended = True
    endings = [entry["data"]["exit_code"] for entry in evidence.journal if entry["name"] == "EndRun"]
    if not endings or endings[-1] != 0:
        yield f"its endings are {endings}"


def rounds(evidence: Evidence) -> Iterator[str]:
    """Rounds are numbered without gaps, and each that was launched was ended, or its supervisor was."""
    expected, open_round = 0, None
    for entry in evidence.journal:
        if entry["name"] == "LaunchRound":
            if open_round is not None:
                yield f"round {open_round} was never ended"
            open_round = entry["data"]["round"]
            if open_round != expected:
                yield f"round {open_round} came after {expected - 1}"
            expected = open_round + 1
        elif entry["name"] in {"WorkerExited", "LaunchFailed"} or (
            entry["name"] == "RunOpened" and entry["data"]["takeover"]
        ):
            open_round = None
    if open_round is not None:
        yield f"round {open_round} was never ended"


def incidents(evidence: Evidence) -> Iterator[str]:
    """Incidents are numbered from 1 without gaps."""
    found = [entry["data"]["incident"]["number"] for entry in evidence.journal if entry["name"] == "RecordIncident"]
    if found != list(range(1, len(found) + 1)):
        yield f"numbered {found}"


def commits(evidence: Evidence) -> Iterator[str]:
    """What was reported as durable is there and sound, or was removed or set aside as the journal says."""
    paths, history = evidence.paths, evidence.history
    present = catalog.committed_steps(paths.snapshots)
    for step in present:
        manifest = catalog.read_manifest(paths.snapshot(step))
        try:
            catalog.verify(paths.snapshot(step))
        except ResilientError as error:
            if manifest.identity not in history.corrupted:
                yield f"step {step}: {error}"
    reported = {entry["data"]["step"]: entry["time"] for entry in evidence.journal if entry["name"] == "Persisted"}
    removed = {step for entry in evidence.journal for step in entry.get("data", {}).get("removed", ())}
    wanted = sorted({*present, *reported})[-evidence.plan.keep :]
    for step, time in reported.items():
        aside = list(paths.snapshots.glob(f"{paths.snapshot(step).name}{catalog.CORRUPT}*"))
        lost = any(time <= lost for lost in history.disk_lost)
        # the drain may have removed it and its supervisor been killed before it heard of that
        if step not in present and step not in removed and not aside and not lost and step in wanted:
            yield f"step {step} was durable and is gone"


def launches(evidence: Evidence) -> Iterator[str]:
    """Each round resumed from the newest of what was durable, or was in memory, when it was launched."""
    history, plan = evidence.history, evidence.plan
    metrics = evidence.case.entries()
    corrupt = {entry["data"]["step"] for entry in evidence.journal if entry["name"] == "Rejected"}
    durable: dict[int, float] = {}
    before = 0.0
    for entry in evidence.journal:
        now = entry["time"]
        if entry["name"] == "Persisted":
            durable[entry["data"]["step"]] = now
        if entry["name"] != "LaunchRound":
            continue
        step = entry["data"]["step"] or 0
        disk_lost = max((at for at in history.disk_lost if at <= now), default=0.0)
        floor = max((known for known, at in durable.items() if at > disk_lost and known not in corrupt), default=0)
        if step < floor:
            yield f"round {entry['data']['round']} resumed from step {step}, though step {floor} was durable"
        lost = max((at for at in history.memory_lost if at <= now), default=0.0)
        done = dict.fromkeys(range(plan.ranks), 0)
        for found in metrics:
            if lost < found.metrics.time < now:
                done[found.rank] = max(done[found.rank], found.metrics.step)
        furthest = min(done.values())
        # Ranks hear through the supervisors which images are whole, and keep those that they know to be. While one of
        # these stands still, what is newer has only the slots that are left.
        late = plan.slots - 1 if any(before < at < now for at in history.stood_still) else 0
        before = now
        if plan.slots > 2 and step < furthest - (1 + late) * plan.memory_every_steps:
            yield f"round {entry['data']['round']} resumed from step {step}, though step {furthest} had been done"


def remote(evidence: Evidence) -> Iterator[str]:
    """The last snapshot is in the remote tier, and no upload was left half done there."""
    if not evidence.plan.remote:
        return
    url = str(evidence.workspace.directory / "remote")
    tier = RemoteTier(open_bucket(RemoteSettings(url=url), evidence.case.run_id))
    items = current(tier.items())
    local = catalog.read_manifest(evidence.paths.snapshot(STEPS)).identity
    last = items.get(STEPS)
    if last is None or last.manifest is None or last.manifest.identity != local:
        yield f"the last snapshot is not there: {sorted(items)}"
    else:
        for rank in range(evidence.plan.ranks):
            body = whole_image(tier.copy(last), rank)
            if first_difference(body, evidence.reference.image(STEPS, rank)) is not None:
                yield f"the image of rank {rank} there is another one"
    for item in items.values():
        if not item.loadable:
            yield f"{item.name}: {item.problem}"
    if unfinished := list(tier.bucket.unfinished()):
        yield f"uploads are left half done: {unfinished}"
