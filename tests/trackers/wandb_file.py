"""What wandb has written offline, read back: LevelDB's log format around wandb's own messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32768  # bytes
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class Stored:
    """One file, which is one launch or a part of it."""

    path: Path
    run_ids: set[str] = field(default_factory=set)
    resumes: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)
    step_metrics: dict[str, str] = field(default_factory=dict)
    preempting: int = 0
    exit_code: int | None = None

    @property
    def steps(self) -> list[int]:
        """Training steps of which there is a loss."""
        return [row["train/step"] for row in self.history if "loss" in row]


def stored(run_root: Path) -> list[Stored]:
    """All files of a run, the oldest first."""
    return [_read(path) for path in sorted((run_root / "wandb").glob("offline-run-*/*.wandb"))]


def _read(path: Path) -> Stored:
    from wandb.proto import wandb_internal_pb2

    found = Stored(path)
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run_ids.add(record.run.run_id)
            found.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary.update(_items(record.summary.update))
        elif kind == "alert":
            found.alerts.append(record.alert.title)
        elif kind == "metric":
            found.step_metrics[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "preempting":
            found.preempting += 1
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    """Whole ones; what a kill has cut off is left out. Checksums are not looked at."""
    assert data[:4] in {b":W&B", b""}  # it has just been made
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + _HEADER : place + _HEADER + length]
        if len(piece) < length or kind not in {_FULL, _FIRST, _MIDDLE, _LAST}:
            return
        parts = piece if kind in {_FULL, _FIRST} else parts + piece
        if kind in {_FULL, _LAST}:
            yield parts
        place += _HEADER + length
