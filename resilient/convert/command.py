"""The command ``convert``: a checkpoint of any format as one of another."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from resilient.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from resilient.convert.checkpoint import Writing
    from resilient.convert.conversion import Result

_HELP = """\
Write a checkpoint in another format. Everything in it is kept: model, optimizer, and whatever is no tensor.

  resilient convert model.pt model.safetensors                     the format follows from the name
  resilient convert runs/demo model.pt --only model                the latest snapshot of a run; its model alone
  resilient convert runs/demo/snapshots/step-000000120 out --to dcp
  resilient convert checkpoint-500 out --to hf --dtype bf16 --shard-size 5GB

Tensors are read and written one at a time. What was written is read back and compared, and gets its name only then;
nothing that is there already is replaced. Pickles are read only as far as torch.load reads them with its defaults.
"""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def add_parser(commands: Any) -> None:
    """Add ``convert`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in another format: torch, safetensors, DCP, Hugging Face, or a snapshot",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="file or directory; the format is found by its structure")
    parser.add_argument("target", metavar="DST", help="file or directory to write, where there is nothing yet")
    parser.add_argument("--to", default="", metavar="FORMAT", help="torch, safetensors, dcp, hf, resilient …")
    parser.add_argument(
        "--from", default="", metavar="FORMAT", dest="form", help="the format of SRC, if it is not found"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="one branch of it, such as model")
    parser.add_argument(
        "--dtype", default="", help="of floating-point tensors, but for an optimizer's: bf16, fp16, fp32"
    )
    parser.add_argument("--shard-size", default="", metavar="SIZE", help="bytes of tensors in one file, such as 5GB")
    parser.add_argument("--hf-config", type=Path, metavar="PATH", help="a config.json to lie beside the model")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="unpickle anything; whoever wrote it can run any code"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry it out."""
    shard_size = parse_size(options.shard_size) if options.shard_size else None
    source, target = Path(options.source), Path(options.target)
    with _ended_by_signals():
        return _convert(options, source, target, shard_size)


def _convert(options: argparse.Namespace, source: Path, target: Path, shard_size: int | None) -> ExitCode:
    from resilient.convert.checkpoint import Writing  # noqa: PLC0415  imports torch
    from resilient.convert.conversion import require_nothing_at, write  # noqa: PLC0415  likewise
    from resilient.convert.formats import format_for, format_named  # noqa: PLC0415  likewise
    from resilient.convert.opening import open_checkpoint  # noqa: PLC0415  likewise
    from resilient.convert.progress import progress  # noqa: PLC0415  likewise
    from resilient.convert.selection import dtype_named, selected, with_dtype  # noqa: PLC0415  likewise

    form = format_named(options.to) if options.to else format_for(target)
    dtype = dtype_named(options.dtype) if options.dtype else None
    require_nothing_at(target)
    found = open_checkpoint(source, options.form, allow_pickle=options.allow_pickle)
    found.verify()
    notes = list(found.notes)
    tree = selected(found.tree, options.only) if options.only else found.tree
    if options.only and form.name == "resilient":
        tree = {options.only: tree}
    if dtype is not None:
        tree, kept = with_dtype(tree, dtype)
        notes += kept
    writing = Writing(
        allow_pickle=options.allow_pickle,
        shard_size=shard_size,
        hf_config=options.hf_config or _neighbour(source),
        step=found.step,
    )
    if not options.json:
        print(f"{source} is {found.about}")
    with progress(str(target), quiet=options.json) as tell:
        done = write(tree, form, target, writing, tell=tell)
    _report(options, form.name, done, notes, writing)
    return ExitCode.FINISHED


def _neighbour(source: Path) -> Path | None:
    """The ``config.json`` of a model that lies beside it already."""
    place = (source if source.is_dir() else source.parent) / "config.json"
    return place if place.is_file() else None


def _report(options: argparse.Namespace, form: str, done: Result, notes: list[str], writing: Writing) -> None:
    from resilient.snapshots_cli.output import print_json  # noqa: PLC0415  see above

    notes = [*notes, *done.notes]
    if options.json:
        body = {"source": options.source, "path": options.target, "format": form, "step": writing.step}
        print_json({**body, "bytes": done.size, "tensors": done.tensors, "notes": notes})
        return
    for note in notes:
        print(f"note: {note}")
    print(f"{done.tensors} tensors, {done.size} bytes, written to {options.target} ({form}), read back and found equal")


def parse_size(text: str) -> int:
    """``5GB`` or ``500MiB`` as bytes.

    :raises UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(float(match[1]) * unit) <= 0:
        raise UsageError(f"{text} is no size", "write one as 5GB, 500MB or 2GiB")
    return int(float(match[1]) * unit)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Clean up on SIGTERM as on Ctrl-C."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
