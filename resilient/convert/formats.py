"""All formats, and which of them something is: found by structure, never by a name's ending alone."""

from __future__ import annotations

from pathlib import Path

from resilient.convert import dcp_target, hf_format, safetensors_format, snapshot_target, torch_format
from resilient.convert.checkpoint import Format
from resilient.convert.deepspeed.formats import UNIVERSAL, ZERO
from resilient.convert.torch_source import first_bytes
from resilient.errors import CheckpointUnreadable, UsageError

FORMATS: tuple[Format, ...] = (
    snapshot_target.FORMAT,
    dcp_target.FORMAT,
    torch_format.FORMAT,
    safetensors_format.FORMAT,
    hf_format.FORMAT,
    UNIVERSAL,
    ZERO,
)
"""In the order in which they are tried."""

_OTHERS = {
    b"version https://": "a pointer of Git LFS, and not the file itself: run git lfs pull",
    b"<!DOCTYPE": "a page of HTML: the download has failed",
    b"<html": "a page of HTML: the download has failed",
    b"\x93NUMPY": "an array of numpy",
    b"\x89HDF": "a file of HDF5",
    b"GGUF": "a file of GGUF",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"PK": "a zip archive without a data.pkl",
    b"\x80": "a pickle, and not a file of torch.save",
}


def format_named(name: str) -> Format:
    """:raises UsageError: there is none of that name."""
    found = next((each for each in FORMATS if each.name == name), None)
    if found is None:
        raise UsageError(f"there is no format {name}", f"use one of {', '.join(each.name for each in FORMATS)}")
    return found


def format_to_write(name: str) -> Format:
    """:raises UsageError: there is none of that name, or it can only be read."""
    found = next((each for each in FORMATS if each.name == name), None)
    if found is None or found.target is None:
        problem = f"there is no format {name}" if found is None else f"{found.words} can only be read"
        raise UsageError(problem, f"use one of {_writable()}")
    return found


def detect(path: Path) -> Format:
    """The format of a file or directory.

    :raises CheckpointUnreadable: it is of none; the message says what it looks like instead.
    """
    found = next((each for each in FORMATS if each.recognises(path)), None)
    if found is None:
        raise CheckpointUnreadable(
            f"{path} is no checkpoint of a known format: it is {_looks(path)}",
            f"known are {', '.join(f'{each.words} ({each.name})' for each in FORMATS)}",
        )
    return found


def format_for(path: Path) -> Format:
    """The format in which a name wants to be written.

    :raises UsageError: it does not say.
    """
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt"}:
        return format_named("torch")
    if path.suffix == ".safetensors":
        return format_named("safetensors")
    raise UsageError(f"which format is {path} to have?", f"say it with --to: {_writable()}")


def _writable() -> str:
    return ", ".join(each.name for each in FORMATS if each.target is not None)


def _looks(path: Path) -> str:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir())
        return f"a directory with {', '.join(inside[:5])}{' …' if len(inside) > 5 else ''}" if inside else "empty"
    beginning = first_bytes(path)
    if not beginning:
        return "empty"
    known = next((text for mark, text in _OTHERS.items() if beginning.startswith(mark)), None)
    return known or f"a file that begins with {beginning!r}"
