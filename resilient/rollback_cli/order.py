"""What is asked for, read from the command line and then compared with what there is of the run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resilient.errors import LineageUnreadable, SnapshotCorrupt, SnapshotNotFound, UsageError
from resilient.policy.lineage import Lineage
from resilient.protocol.board import Board, Word
from resilient.protocol.metrics_log import read_metrics
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.snapshot.inventory import Item, State
from resilient.snapshot.remote import RemoteItem, current
from resilient.snapshots_cli.target import Target, everywhere
from resilient.supervisor.leftovers import newest_step
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.status import Status

ALL = "all"


@dataclass(frozen=True)
class Order:
    """What was written.

    :param target: a step, or ``latest``, ``best``, ``good`` or ``START``.
    :param skip: first and last step, :data:`ALL`, or None for none.
    :param lr_factor: what the learning rate is multiplied by, beside what it is already.
    :param said_skip: something was said about data at all.
    """

    target: str
    skip: tuple[int, int] | str | None = None
    lr_factor: float = 1.0
    said_skip: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    :param reached: the furthest step that is discarded, as far as can be seen.
    :param notes: sentences for the user.
    """

    target: int
    reached: int
    skip: tuple[int, int] | None = None
    lr_factor: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What is done, as the end of a sentence."""
        where = f"from step {self.target}" if self.target else "from the beginning"
        left_out = f", without the data of steps {self.skip[0]} to {self.skip[1]}" if self.skip else ""
        return where + left_out + (f", learning rate × {self.lr_factor:g}" if self.lr_factor != 1 else "")


def read_order(target: Target) -> Order:
    """The order in ``step= to= skip= lr=``.

    :raises UsageError: it makes no sense.
    """
    step, to = target.step, target.given.get("to", "")
    if bool(step) == bool(to):
        raise UsageError("which snapshot?" if not to else "both step= and to= are given", "add to=good or step=120")
    if to and to.lower() not in {"good", "start"}:
        raise UsageError(f"to={to} is not known", "use to=good, to=START, or step=120")
    text = target.given.get("skip", "")
    return Order(step or to.lower().replace("start", "START"), _skip(text), _factor(target), bool(text))


def _skip(text: str) -> tuple[int, int] | str | None:
    if text in {"", "none"}:
        return None
    if text == ALL:
        return ALL
    match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", text)
    if not match:
        raise UsageError(f"skip={text} is not understood", "write skip=140..155, skip=all or skip=none")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise UsageError(f"skip={text} ends before it begins", f"write skip={last}..{first}")
    return first, last


def _factor(target: Target) -> float:
    text = target.given.get("lr", "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(f"lr={text} is no factor for the learning rate", "write lr=0.5 to halve it")
    return factor


def plan(target: Target, order: Order) -> Plan:
    """What the order comes to, with what there is of the run now; the snapshot is read and verified.

    :raises UsageError: there is no data to be left out where it is to be.
    :raises SnapshotNotFound: there is no such snapshot, or it is off the lineage.
    :raises SnapshotCorrupt: it fails verification.
    :raises LineageUnreadable: what is known of earlier rollbacks cannot be read.
    """
    standing = target.standing()
    if standing.problem:
        raise LineageUnreadable(f"{target.paths.lineage}: {standing.problem}", "restore the file if you can")
    fork = standing.lineage.forked_from
    if order.target == "START" and fork is not None:
        target, order = replace(target, given={**target.given, "step": str(fork.step)}), replace(order, target="")
    step = 0 if order.target == "START" else _snapshot(target, order)
    reached = max(step, _reached(target, standing.lineage))
    skip, notes = _left_out(order, step, reached), []
    if skip is None and not order.said_skip and order.lr_factor == 1:
        notes.append("the same data follow; skip=… leaves some out, and lr=… lowers the learning rate")
    return Plan(step, reached, skip, order.lr_factor, tuple(notes))


def _snapshot(target: Target, order: Order) -> int:
    """The step of the snapshot that is meant, which is on the lineage and can be loaded from some tier."""
    items = target.items(discarded=True)
    here = [item for item in items if item.state is not State.DISCARDED]
    there = target.remote_tier().items() if _is_wanted_remotely(target, here) else ()
    lineage = target.standing().lineage
    far = [item for item in there if item.manifest is None or lineage.holds(item.step, item.manifest.round)]
    steps = [item.step for item in here] + [item.step for item in far]
    if target.step.isdecimal() and int(target.step) not in steps:
        _explain_absence(target, items, int(target.step))
    step = target.chosen_step(everywhere(here, far), steps, order.target)
    _require_sound(target, step, here, far)
    return step


def _require_sound(target: Target, step: int, here: Sequence[Item], far: Sequence[RemoteItem]) -> None:
    """Some copy of the snapshot can be loaded. The near one is read; of a far one its manifest has to do."""
    problems = [_problem(item) for item in here if item.step == step]
    if step in current(far) or not all(problems or ["it cannot be read"]):
        return
    problems += [item.problem for item in far if item.step == step]
    raise SnapshotCorrupt(
        f"the snapshot of step {step} cannot be loaded: {problems[0]}",
        f"choose another: resilient snapshots list run={target.paths.run_id}",
    )


def _is_wanted_remotely(target: Target, here: list[Item]) -> bool:
    """Whether the snapshot may lie in the remote tier alone: what is here is preferred, and costs no network."""
    if not target.remote.enabled:
        return False
    sound = {item.step for item in here if item.state is State.COMMITTED}
    return not sound or (target.step.isdecimal() and int(target.step) not in sound)


def _explain_absence(target: Target, items: tuple[Item, ...], step: int) -> None:
    if any(item.step == step for item in items):
        on = sorted({item.step for item in items if item.state is not State.DISCARDED})
        raise SnapshotNotFound(
            f"the snapshot of step {step} was discarded by an earlier rollback: it is off the lineage",
            f"those on it: {', '.join(map(str, on)) or 'none'}",
        )
    if step == 0:
        raise SnapshotNotFound(f"the run {target.paths.run_id} has no snapshot of step 0", "its beginning is to=START")


def _problem(item: Item) -> str:
    """Why a snapshot on this machine cannot be loaded; empty if every byte is as it was written."""
    if item.problem:
        return item.problem
    try:
        catalog.verify(item.path)
    except SnapshotCorrupt as error:
        return error.problem
    return ""


def _left_out(order: Order, target: int, reached: int) -> tuple[int, int] | None:
    if order.skip is None:
        return None
    if isinstance(order.skip, str):
        return (target + 1, reached) if reached > target else None
    first, last = order.skip
    if first <= target:
        raise UsageError(
            f"skip={first}..{last}: the state of step {target} has seen the data of step {first} already",
            f"begin with {target + 1}, or roll back further",
        )
    if last > reached:
        raise UsageError(f"skip={first}..{last}: the run has only come to step {reached}", f"end with {reached}")
    return first, last


def _reached(target: Target, lineage: Lineage) -> int:
    """The furthest step that the run has come to, but for what was discarded before."""
    paths, place = target.paths, RunMemory.place(target.paths, target.memory_dir)
    found = [item.step for item in target.items()]
    if lineage.pending:  # what is known of later steps is known of discarded ones
        return max([*found, lineage.rollbacks[-1].reached])
    found += [_reported(paths), _on_board(place / "rank-00000.board"), newest_step(place) or 0]
    status = Status.read(paths.status)
    return max([*found, status.step if status is not None and status.finished else 0])


def _reported(paths: RunPaths) -> int:
    """The furthest step of the last round of which there are metrics."""
    by_round: dict[int, int] = {}
    for path in paths.metrics.parent.glob("*.jsonl"):
        for entry in read_metrics(path):
            by_round[entry.round] = max(by_round.get(entry.round, 0), entry.metrics.step)
    return by_round[max(by_round)] if by_round else 0


def _on_board(path: Path) -> int:
    try:
        board = Board.open(path)
    except (OSError, ValueError):
        return 0
    step = board[Word.STEP]
    board.close()
    return step
