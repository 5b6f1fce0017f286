"""The command ``convert``: a checkpoint of any format as one of another."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from resilient.errors import ExitCode

_HELP = """\
Write a checkpoint in another format. Everything in it is kept: model, optimizer, and whatever is no tensor.

  resilient convert model.pt model.safetensors                     the format follows from the name
  resilient convert runs/demo model.pt --only model                the latest snapshot of a run; its model alone
  resilient convert runs/demo/snapshots/step-000000120 out --to dcp
  resilient convert checkpoint-500 out --to hf --dtype bf16 --shard-size 5GB

Tensors are read and written one at a time. What was written is read back and compared, and gets its name only then;
nothing that is there already is replaced. Pickles are read only as far as torch.load reads them with its defaults.
"""


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
    parser.add_argument("--from", default="", metavar="FORMAT", dest="form", help="of SRC, where it is not found")
    parser.add_argument("--only", default="", metavar="NAME", help="one branch of the state, such as model")
    parser.add_argument("--allow-pickle", action="store_true", help="unpickle anything, which can run any code")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")
    add_form_arguments(parser)


def add_form_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how something is to be written; all of it is text, and no text where it was not said."""
    parser.add_argument("--to", default="", metavar="FORMAT", help="torch, safetensors, dcp, hf, resilient …")
    parser.add_argument("--dtype", default="", help="of floating-point tensors, but for an optimizer's: bf16, fp16 …")
    parser.add_argument("--shard-size", default="", metavar="SIZE", help="bytes of tensors in one file, such as 5GB")
    parser.add_argument("--hf-config", type=Path, metavar="PATH", help="a config.json to lie beside the model")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry it out."""
    with ended_by_signals():
        from resilient.convert.request import Request, carry_out  # noqa: PLC0415  imports torch

        request = Request(
            Path(options.source),
            Path(options.target),
            to=options.to,
            form=options.form,
            only=options.only,
            dtype=options.dtype,
            shard_size=options.shard_size,
            hf_config=options.hf_config,
            allow_pickle=options.allow_pickle,
        )
        done = carry_out(request, quiet=options.json)
    if options.json:
        print(json.dumps({"source": options.source, "path": options.target, **done.to_json()}, indent=1))
        return ExitCode.FINISHED
    print(f"{options.source} is {done.about}")
    for note in done.notes:
        print(f"note: {note}")
    what = f"{done.tensors} tensors, {done.size} bytes"
    print(f"{what}, written to {options.target} ({done.form}), read back and found equal")
    return ExitCode.FINISHED


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Clean up on SIGTERM as on Ctrl-C, and say no more than that it has ended."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        print("resilient: interrupted; nothing is left of what was being written", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
