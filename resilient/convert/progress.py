"""How far a conversion is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from resilient.convert.conversion import Tell

_EVERY = 10
"""Percent between two lines."""


@contextmanager
def progress(name: str, *, quiet: bool = False) -> Iterator[Tell]:
    """Whom to tell.

    :param name: of what is written.
    :param quiet: nobody wants to see anything.
    """
    console = Console(stderr=True)
    if quiet:
        yield lambda _phase, _done, _all: None
    elif not console.is_terminal:
        yield _Lines(name)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            yield _Bars(bar)


class _Bars:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._phase = ""

    def __call__(self, phase: str, done: int, whole: int) -> None:
        if phase != self._phase:
            self._phase = phase
            self._task = self._bar.add_task(phase, total=whole)
        self._bar.update(self._task, completed=done)


class _Lines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._said = ("", 0)

    def __call__(self, phase: str, done: int, whole: int) -> None:
        percent = 100 * done // whole // _EVERY * _EVERY if whole else 100
        if percent and self._said != (phase, percent):
            self._said = (phase, percent)
            print(f"resilient: {phase} {self._name}: {percent}% of {whole} bytes", file=sys.stderr)
