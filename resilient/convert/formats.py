"""All formats, and which of them something is: found by structure, never by a name's ending alone."""

from __future__ import annotations

from pathlib import Path

from resilient.convert import dcp_target, hf_format, safetensors_format, snapshot_target, torch_format
from resilient.convert.checkpoint import Format
from resilient.errors import CheckpointUnreadable, UsageError

FORMATS: tuple[Format, ...] = (
    snapshot_target.FORMAT,
    dcp_target.FORMAT,
    torch_format.FORMAT,
    safetensors_format.FORMAT,
    hf_format.FORMAT,
)
"""In the order in which they are tried."""


def format_named(name: str) -> Format:
    """:raises UsageError: there is none of that name."""
    found = next((each for each in FORMATS if each.name == name), None)
    if found is None:
        raise UsageError(f"there is no format {name}", f"use one of {', '.join(each.name for each in FORMATS)}")
    return found


def detect(path: Path) -> Format:
    """The format of a file or directory.

    :raises CheckpointUnreadable: it is of none.
    """
    found = next((each for each in FORMATS if each.recognises(path)), None)
    if found is None:
        raise CheckpointUnreadable(f"{path} is no checkpoint of a known format", "say which one it is with --from")
    return found
