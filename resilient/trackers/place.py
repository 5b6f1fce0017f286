"""How far a tracker has come: kept in the run directory, so that whoever goes on begins there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths


@dataclass(frozen=True)
class Place:
    """Everything a successor needs.

    :param files: where in each file the next line begins.
    :param narrator: what is known from the lines before.
    :param tracker: the tracker's own state.
    :param dropped: how much was left out, in all.
    """

    files: Mapping[str, int] = field(default_factory=dict)
    narrator: Mapping[str, Any] = field(default_factory=dict)
    tracker: Mapping[str, Any] = field(default_factory=dict)
    dropped: int = 0

    def write(self, path: Path) -> None:
        """Replace the file; where there is no room for it, what is there stays, and some things are told again."""
        fresh = RunPaths.fresh(path)
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            fresh.write_text(json.dumps(asdict(self)))
            fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> Place:
        """From the file; that of a new tracker if there is none, or it cannot be understood."""
        try:
            body = json.loads(path.read_text())
            files = {str(name): int(place) for name, place in body["files"].items()}
            return cls(files, dict(body["narrator"]), dict(body["tracker"]), int(body["dropped"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls()
