"""The command line reference: what ``--help`` prints, command by command."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from unittest import mock

from generate.markup import fenced, front_matter
from resilient import cli

_INTRODUCTION = """
All commands take `key=value` and options in any order, and `--json`, where it is listed, prints JSON with stable keys.
What a command leaves with is in [Exit codes](exit-codes.md).
"""

_LISTINGS = {
    "drill": ("The faults", ["drill", "--list"]),
    "doctor": ("What is checked", ["doctor", "--list"]),
    "simulate": ("Keys and their values", ["simulate", "--keys"]),
}
_WIDTH = "110"


def page() -> str:
    parser = cli._parser()
    parts = [
        front_matter("Command line", "Every command and its options."),
        _INTRODUCTION,
        "| command | what |\n|---|---|",
        *[f"| [`{name}`](#{name}) | {text} |" for name, text, _ in commands(parser)],
        "",
    ]
    for name, _, command in commands(parser):
        parts += [f"## resilient {name} {{ #{name} }}\n", fenced(help_of(command)), ""]
        for inner, _, action in commands(command):
            parts += [f"### resilient {name} {inner} {{ #{name}-{inner} }}\n", fenced(help_of(action)), ""]
        if name in _LISTINGS:
            title, arguments = _LISTINGS[name]
            parts += [f"### {title} {{ #{name}-list }}\n", fenced(printed(arguments)), ""]
    return "\n".join(parts)


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, one line about it, and parser of each command of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            said = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, said[name], command) for name, command in action.choices.items())


def help_of(parser: argparse.ArgumentParser) -> str:
    with mock.patch.dict(os.environ, {"COLUMNS": _WIDTH}):
        return parser.format_help()


def printed(arguments: list[str]) -> str:
    """What a command prints that does nothing else."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": _WIDTH}), contextlib.redirect_stdout(out):
        code = cli.main(arguments)
    if code:
        sys.exit(f"resilient {' '.join(arguments)} ended with {code}")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
