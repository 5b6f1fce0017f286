"""The names of things on disk and in shared memory, each built and parsed in one place."""

from __future__ import annotations

import re

from resilient.errors import ConfigurationError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,127}")
_ROUND = re.compile(r"round-(\d{4,9})")
_STEP = re.compile(r"step-(\d{9,18})")
_PIECE = re.compile(r"(.+)\.(\d{4,9})\.log")


def validate_run_id(run_id: str) -> str:
    """Return ``run_id`` if it is safe as the name of a directory.

    :raises ConfigurationError: it is empty, too long, or holds something that a path must not.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigurationError(
            f"run.id={run_id!r} cannot name a run directory",
            "use 1 to 128 letters, digits and . _ - = , + and begin with a letter or digit",
        )
    return run_id


def snapshot_name(step: int) -> str:
    """``step-000001234`` for step 1234."""
    return f"step-{step:09d}"


def snapshot_step(name: str) -> int | None:
    """The step of a snapshot directory's name, or None for anything else (temporary, quarantined, foreign)."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and snapshot_name(int(match[1])) == name else None


def image_name(rank: int) -> str:
    """File of one rank's image inside a snapshot."""
    return f"rank-{rank:05d}.safetensors"


def log_name(rank: int) -> str:
    return f"rank-{rank:05d}.log"


def log_piece(name: str, number: int) -> str:
    """An older piece of the log ``name``: ``rank-00000.0003.log``; the oldest has the lowest number."""
    return f"{name.removesuffix('.log')}.{number:04d}.log"


def piece_number(name: str, log: str) -> int | None:
    """The number of a piece of the log ``log``, or None for anything else."""
    match = _PIECE.fullmatch(name)
    return int(match[2]) if match and f"{match[1]}.log" == log else None


def round_name(number: int) -> str:
    return f"round-{number:04d}"


def round_number(name: str) -> int | None:
    """The number in a round's directory name, or None for anything else."""
    match = _ROUND.fullmatch(name)
    return int(match[1]) if match else None
