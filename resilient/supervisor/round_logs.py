"""Room for logs: which rounds' are kept, and how large those of the helpers become."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resilient.policy.failures import FailureClass
from resilient.protocol import names
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal

_MOST_OF_HELPER = 8 << 20  # bytes; what a helper says fits into a few lines
_MOST_FAILED = 100  # rounds with a failure that are kept beside the others; a person looks at the newest
_NOBODYS_FAULT = frozenset({FailureClass.PREEMPTION.value, FailureClass.SUPERVISOR_LOST.value})


def rounds_to_delete(rounds: Collection[int], failed: Iterable[int], keep: int) -> list[int]:
    """All but the first, the last ``keep``, and the newest of those in which something failed.

    :param keep: 0 for all.
    """
    found = sorted(rounds)
    if not keep or len(found) <= keep + 1:
        return []
    wanted = {found[0], *found[-keep:], *sorted(set(failed))[-_MOST_FAILED:]}
    return [number for number in found if number not in wanted]


def failed_rounds(journal: Iterable[Mapping[str, Any]]) -> set[int]:
    """Rounds with an incident that was more than a preemption."""
    found = set()
    for entry in journal:
        incident = (entry.get("data") or {}).get("incident") if entry.get("name") == "RecordIncident" else None
        if incident and (incident.get("failure") or {}).get("failure_class") not in _NOBODYS_FAULT:
            found.add(int(incident.get("round", 0)))
    return found


def delete_old_rounds(paths: RunPaths, keep: int) -> list[int]:
    """Delete the logs of old rounds; returns which. Other nodes of the run may be doing the same."""
    listed = (names.round_number(path.name) for path in (paths.root / "logs").glob("round-*"))
    rounds = [number for number in listed if number is not None]
    if not rounds_to_delete(rounds, (), keep):
        return []
    failed: set[int] = set()
    try:
        for journal in paths.journal.parent.glob("*.jsonl"):
            failed |= failed_rounds(read_journal(journal))
    except OSError:  # which of them had a failure is not known now; the next round looks again
        return []
    deleted = rounds_to_delete(rounds, failed, keep)
    for number in deleted:
        shutil.rmtree(paths.round_logs(number), ignore_errors=True)
    return deleted


def set_aside_if_large(log: Path, most: int = _MOST_OF_HELPER) -> None:
    """Before a helper is started: begin a new log where the old one is large. One old one is kept."""
    with suppress(OSError):
        if log.stat().st_size > most:
            log.replace(log.with_name(f"{log.stem}.old.log"))
