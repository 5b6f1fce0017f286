"""A journal that is followed while it is written: waiting for an entry must not cost the supervisor its processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JournalTail:
    """All entries so far; each line is read once, however often it is looked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._entries: list[dict[str, Any]] = []

    def entries(self, name: str | None = None, since: float = 0.0) -> list[dict[str, Any]]:
        """Those of that name, or all, from that moment on."""
        self._follow()
        found = self._entries if name is None else [entry for entry in self._entries if entry["name"] == name]
        return [entry for entry in found if entry["time"] >= since]

    def count(self, name: str, since: float = 0.0) -> int:
        return len(self.entries(name, since))

    def _follow(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            whole, end, _ = stream.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        self._entries += map(json.loads, whole.splitlines())
