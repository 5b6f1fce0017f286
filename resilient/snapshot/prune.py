"""Prune: delete what retention does not want. Drain, command line and a worker without a supervisor share it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from resilient.protocol import names
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import pins
from resilient.snapshot.commit import retire
from resilient.snapshot.inventory import Item, candidates, inventory
from resilient.snapshot.retention import Verdict, judge
from resilient.snapshot.storage import Storage


def review(
    directory: Path, items: Sequence[Item], settings: RetentionSettings, in_use: Collection[int] = ()
) -> Verdict:
    """What retention says of ``items``, an inventory of ``directory``."""
    return judge(candidates(items), settings, in_use=(*_latest(directory), *in_use))


def prune(storage: Storage, directory: Path, settings: RetentionSettings, in_use: Collection[int] = ()) -> list[int]:
    """Delete what retention does not want; returns the steps. What cannot be read is left alone.

    :param in_use: steps that stay whatever retention says, such as one that is being uploaded.
    """
    removed = []
    for step in review(directory, inventory(directory), settings, in_use).removable:
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
