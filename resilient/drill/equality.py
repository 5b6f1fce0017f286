"""Whether a run that a fault was done to is the same, bit for bit, as one without."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from resilient.protocol.metrics_log import Entry, read_metrics
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.snapshot.compare import first_difference
from resilient.snapshot.image import Layout, read_state

_RANDOM = "rng"  # of a script that does not seed it, it differs between any two runs


class Same(str, Enum):
    """What can be said."""

    YES = "yes"
    NO = "NO"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Equality:
    """The answer, and in words what was compared, what differs, or why nothing can be said."""

    same: Same
    text: str


Values = Mapping[int, Mapping[tuple[int, str], set[bytes]]]
"""By step, rank and name: the values that were reported, as their bits; more than one where they did not agree."""


def compare_runs(reference: RunPaths, drilled: RunPaths, before: int) -> Equality:
    """Compare every reported metric and the final state on disk.

    :param before: the last step that the fault cannot have changed. Runs that differ up to there would have differed
        without it too.
    """
    one, other = values_of(read_metrics(reference.metrics)), values_of(read_metrics(drilled.metrics))
    wrong = first_different(one, other)
    if wrong is not None:
        step, name = wrong
        if not any(catalog.committed_steps(paths.snapshots) for paths in (reference, drilled)):
            text = "the script has no snapshots to compare, and which step a printed value is of is not known exactly"
            return Equality(Same.UNKNOWN, f"{text}; only a script that calls resilient.attach can be compared")
        if step <= before:
            text = f"{name} differs in step {step} already, before the fault: the script does not do the same twice"
            return Equality(Same.UNKNOWN, f"{text}; seed all its generators")
        return Equality(Same.NO, f"{name} differs, first in step {step}")
    state = compare_states(reference, drilled)
    if state.same is not Same.YES:
        return state
    if not one:
        return Equality(Same.UNKNOWN, f"nothing is reported; {state.text}")
    count = sum(len(names) for names in one.values())
    return Equality(Same.YES, f"{count} reported values and {state.text}")


def values_of(entries: Iterable[Entry]) -> Values:
    """What was reported; in a repeated step each value has to be what it was."""
    found: dict[int, dict[tuple[int, str], set[bytes]]] = {}
    for entry in entries:
        names = found.setdefault(entry.metrics.step, {})
        for name, value in entry.metrics.values.items():
            names.setdefault((entry.rank, name), set()).add(struct.pack("=d", value))
    return found


def first_different(one: Values, other: Values) -> tuple[int, str] | None:
    """Step and name of the first metric that is not the same, or None."""
    for step in sorted(one.keys() | other.keys()):
        here, there = one.get(step, {}), other.get(step, {})
        for rank, name in sorted(here.keys() | there.keys()):
            values = here.get((rank, name), set()) | there.get((rank, name), set())
            if len(values) != 1 or (rank, name) not in here or (rank, name) not in there:
                return step, name if not rank else f"{name} of rank {rank}"
    return None


def compare_states(reference: RunPaths, drilled: RunPaths) -> Equality:
    """Compare the last snapshots on disk: of all ranks, every tensor and every other value."""
    steps = [catalog.committed_steps(paths.snapshots)[-1:] for paths in (reference, drilled)]
    if not steps[0] or not steps[1]:
        if steps[0]:
            return Equality(Same.NO, "it has no snapshot on disk, without the fault it has")
        return Equality(Same.UNKNOWN, "there is no snapshot to compare with")
    if steps[0] != steps[1]:
        return Equality(Same.NO, f"the last snapshot is that of step {steps[1][0]}, without the fault {steps[0][0]}")
    images = [_images(paths.snapshot(steps[0][0])) for paths in (reference, drilled)]
    if images[0].keys() != images[1].keys():
        return Equality(Same.NO, f"{len(images[1])} ranks have images, without the fault {len(images[0])}")
    for name in sorted(images[0]):
        if (found := _difference(images[0][name], images[1][name])) is not None:
            return Equality(Same.NO, f"final state, {name}: {found}")
    return Equality(Same.YES, f"the whole state after step {steps[0][0]}")


def _images(snapshot: Path) -> dict[str, Path]:
    return {path.name: path for path in snapshot.glob("*.safetensors")}


def _difference(one: Path, other: Path) -> str | None:
    with ExitStack() as stack:
        views = []
        for path in (one, other):
            stream = stack.enter_context(path.open("rb"))
            memory = stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
            views.append(stack.enter_context(memoryview(memory)))
        names = {name for view in views for name in _names(view)}
        return first_difference(views[0], views[1], only={name for name in names if name.partition(".")[0] != _RANDOM})


def _names(image: memoryview) -> set[str]:
    """Of all objects and all tensors."""
    layout = Layout.parse(image)
    return {*read_state(image, layout)["objects"], *layout.tensors}
