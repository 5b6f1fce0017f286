"""Prune: delete what retention does not want. Drain, command line and a worker without a supervisor share it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from resilient.protocol import names
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import pins
from resilient.snapshot.commit import retire
from resilient.snapshot.inventory import Item, candidates, inventory
from resilient.snapshot.retention import Reason, Verdict, judge
from resilient.snapshot.standing import MARGIN, Standing
from resilient.snapshot.storage import Storage


def review(
    directory: Path,
    items: Sequence[Item],
    settings: RetentionSettings,
    in_use: Collection[int] = (),
    *,
    standing: Standing | None = None,
    margin: int | None = MARGIN,
) -> Verdict:
    """What retention says of ``items``, an inventory of ``directory``. Where the run's lineage cannot be read, it keeps
    everything.

    :param margin: the setting ``divergence.margin``; None where nobody watches the run.
    """
    standing = standing if standing is not None else Standing.read(directory)
    judged = candidates(items)
    if standing.problem:
        return Verdict((), {candidate.step: (Reason.UNKNOWN,) for candidate in judged})
    good = standing.to_keep([candidate.step for candidate in judged], margin)
    target = standing.lineage.target
    needed = (*_latest(directory), *(() if target is None else (target,)), *in_use)
    return judge(judged, settings, in_use=needed, good=good)


def prune(
    storage: Storage,
    directory: Path,
    settings: RetentionSettings,
    in_use: Collection[int] = (),
    *,
    margin: int | None = MARGIN,
) -> list[int]:
    """Delete what retention does not want; returns the steps. What cannot be read is left alone, and what a rollback
    has discarded too.

    :param in_use: steps that stay whatever retention says, such as one that is being uploaded.
    :param margin: the setting ``divergence.margin``; None where nobody watches the run.
    """
    removed, standing = [], Standing.read(directory)
    items = inventory(directory, standing)
    for step in review(directory, items, settings, in_use, standing=standing, margin=margin).removable:
        if not pins.is_pinned(directory, step):  # it may have been pinned just now
            retire(storage, directory / names.snapshot_name(step))
            removed.append(step)
    return removed


def _latest(directory: Path) -> tuple[int, ...]:
    """The step committed last, which after a rollback is not the highest."""
    try:
        step = names.snapshot_step((directory / "latest").readlink().name)
    except OSError:
        return ()
    return (step,) if step is not None else ()
