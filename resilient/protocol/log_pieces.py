"""The pieces of a log that is rotated: ``rank-00000.0001.log``, ``rank-00000.0002.log``, …, and the log itself."""

from __future__ import annotations

from pathlib import Path

from resilient.protocol import names


def piece_path(log: Path, number: int) -> Path:
    return log.with_name(names.log_piece(log.name, number))


def piece_numbers(log: Path) -> list[int]:
    """Numbers of the older pieces there are, the oldest first."""
    found = (names.piece_number(path.name, log.name) for path in log.parent.glob(f"{log.stem}.*.log"))
    return sorted(number for number in found if number is not None)
