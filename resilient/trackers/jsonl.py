"""All details as JSON lines, each of them once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient.trackers.details import Details
from resilient.trackers.tracker import Context, Tracker


class Jsonl(Tracker):
    """Appends to one file. What a process that was killed has written and not kept in mind is cut off."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        chosen = context.settings.jsonl.path
        path = Path(chosen) if chosen else context.paths.root / "trackers" / "details.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab")

    def resume(self, state: Mapping[str, Any]) -> None:
        super().resume(state)
        length = int(self.state.get("length", 0))
        if length < self._stream.seek(0, 2):
            self._stream.truncate(length)

    def told(self, details: Details) -> None:
        self._stream.write(json.dumps(details.to_json()).encode() + b"\n")

    def flush(self) -> None:
        self._stream.flush()
        self.state["length"] = self._stream.tell()

    def close(self) -> None:
        self._stream.close()
