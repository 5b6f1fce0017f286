"""Retention: which committed snapshots may go. A pure function of the catalog."""

from __future__ import annotations

from collections.abc import Iterable


def removable(steps: Iterable[int], *, keep_last: int, protected: Iterable[int] = ()) -> tuple[int, ...]:
    """Steps whose snapshots may be deleted, oldest first: all but the last ``keep_last`` and the protected ones.

    The newest one is always kept, whatever ``keep_last`` says.
    """
    ordered = sorted(set(steps))
    kept = set(ordered[-max(1, keep_last) :]) | set(protected)
    return tuple(step for step in ordered if step not in kept)
