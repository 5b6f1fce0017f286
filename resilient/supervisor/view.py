"""What of the workers' output the person at the terminal sees.

The logs have everything. The terminal has the ranks that were asked for, whole lines, no more of them than can be read,
and the end of a rank that failed in any case.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from resilient.supervisor.console import Console
from resilient.supervisor.settings import ConsoleSettings, Prefix

_PARTIAL_SECONDS = 1.0  # a prompt, or a line whose end takes its time
_PROGRESS_SECONDS = 10.0  # a progress bar has a new state ten times a second
_RECENT_SECONDS = 10.0  # a traceback in the middle of a flood may have been hidden
_REPEATS = 3  # so many more of the same line are no news
_LONGEST = 4096  # characters of a line
_LAST_BYTES = 4096  # of a log, shown when its rank failed without a traceback
_COLOURS = (36, 35, 32, 33, 34, 31)
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_SGR = re.compile(r"\x1b\[[0-9;:]*m")


@dataclass
class _Shown:
    """What of a rank's output is on the terminal."""

    log: Path
    line: str | None = None
    repeats: int = 0
    window: float = 0.0
    count: int = 0  # lines in this second
    hidden: int = 0
    hidden_at: float = -math.inf
    partial: str = ""
    partial_since: float = 0.0
    partial_shown: str = ""
    is_progress_bar: bool = False


class View:
    """Passes lines on to the console, or does not.

    :param log: the log of a rank, in the round that is up.
    :param clock: seconds.
    """

    def __init__(
        self,
        console: Console,
        settings: ConsoleSettings,
        ranks: int,
        log: Callable[[int], Path],
        clock: Callable[[], float],
    ) -> None:
        self._console = console
        self._settings = settings
        self._prefixed = settings.prefix is Prefix.always or (settings.prefix is Prefix.auto and ranks > 1)
        self._clock = clock
        self._log = log
        self._shown = {rank: _Shown(log(rank)) for rank in range(ranks) if settings.shows(rank)}
        self._lines: list[str] = []

    @property
    def ranks(self) -> list[int]:
        """Those whose output is shown."""
        return sorted(self._shown)

    def show(self, rank: int, line: str) -> None:
        """A whole line of a rank."""
        shown = self._shown.get(rank)
        if shown is None:
            return
        begun, shown.partial_shown, shown.partial = shown.partial_shown, "", ""
        if begun and line.startswith(begun) and not shown.is_progress_bar:
            line = line[len(begun) :]
            if not line:
                return
        if line == shown.line:
            shown.repeats += 1
            return
        self._tell_repeats(rank, shown)
        shown.line = line
        self._admit(rank, shown, line)

    def look(self, unfinished: Iterable[tuple[int, str, bool]]) -> None:
        """Once in a while: what has waited long enough is shown, and all of it given to the console."""
        now = self._clock()
        for rank, text, is_progress_bar in unfinished:
            shown = self._shown.get(rank)
            if shown is not None and text != shown.partial:
                if not shown.partial or not (is_progress_bar or text.startswith(shown.partial)):
                    shown.partial_since = now
                shown.partial = text
            if shown is not None and now - shown.partial_since >= (
                _PROGRESS_SECONDS if is_progress_bar else _PARTIAL_SECONDS
            ):
                self._show_partial(rank, shown, is_progress_bar=is_progress_bar)
        for rank, shown in self._shown.items():
            if now - shown.window >= 1:
                self._tell_repeats(rank, shown)
                self._tell_hidden(rank, shown)
        self.flush()

    def flush(self) -> None:
        """Give the console what there is."""
        if self._lines:
            self._console.pass_on("".join(self._lines))
            self._lines = []

    def ended(self, rank: int) -> None:
        """A rank's output has come to its end."""
        if (shown := self._shown.get(rank)) is not None:
            self._tell_repeats(rank, shown)
            self._tell_hidden(rank, shown)
        self.flush()

    def failed(self, rank: int, traceback: str) -> None:
        """Show how a rank ended, unless that has been seen.

        :param traceback: the exception that ended its script; where there is none, the end of its log is shown.
        """
        shown = self._shown.get(rank)
        if shown is not None and self._clock() - shown.hidden_at > _RECENT_SECONDS:
            return
        lines = traceback.rstrip("\n").splitlines() or _last_lines(self._log(rank))
        for line in lines:
            self._put(rank, line, prefixed=True)
        self.flush()

    def _show_partial(self, rank: int, shown: _Shown, *, is_progress_bar: bool) -> None:
        text, begun = shown.partial, shown.partial_shown
        new = text[len(begun) :] if begun and text.startswith(begun) and not is_progress_bar else text
        if new.strip() and text != begun:
            self._tell_repeats(rank, shown)
            self._admit(rank, shown, new)
        shown.partial_shown, shown.is_progress_bar = text, is_progress_bar
        shown.partial_since = self._clock()

    def _admit(self, rank: int, shown: _Shown, line: str) -> None:
        """Show a line, if there have not been too many of late."""
        now = self._clock()
        if now - shown.window >= 1:
            self._tell_hidden(rank, shown)
            shown.window, shown.count = now, 0
        shown.count += 1
        if shown.count > self._settings.lines_per_second:
            shown.hidden += 1
            shown.hidden_at = now
            return
        self._put(rank, line)

    def _tell_repeats(self, rank: int, shown: _Shown) -> None:
        repeats, shown.repeats = shown.repeats, 0
        if not repeats or shown.line is None:
            return
        if repeats < _REPEATS:
            for _ in range(repeats):
                self._admit(rank, shown, shown.line)
        else:
            self._admit(rank, shown, f"{shown.line[:_LONGEST]} (×{repeats:,} more)")

    def _tell_hidden(self, rank: int, shown: _Shown) -> None:
        hidden, shown.hidden = shown.hidden, 0
        if hidden:
            lines = "1 line" if hidden == 1 else f"{hidden:,} lines"
            self._put(rank, f"… {lines} not shown, see {shown.log}")

    def _put(self, rank: int, line: str, *, prefixed: bool = False) -> None:
        coloured = self._console.has_colours
        if "\x1b" in line:
            line = _without_control(line, keep_colours=coloured)
        if len(line) > _LONGEST:
            line = f"{line[:_LONGEST]}… ({len(line) - _LONGEST:,} more characters)"
        prefix = ""
        if self._prefixed or prefixed:
            prefix = f"[{rank}] "
            if coloured:
                prefix = f"\x1b[{_COLOURS[rank % len(_COLOURS)]}m{prefix}\x1b[0m"
        self._lines.append(f"{prefix}{line}\n")


def _without_control(line: str, *, keep_colours: bool) -> str:
    """Without what would move the cursor, or tell a file of colours."""
    text = _CONTROL.sub(lambda found: found[0] if keep_colours and _SGR.fullmatch(found[0]) else "", line)
    return f"{text}\x1b[0m" if keep_colours and "\x1b" in text else text


def _last_lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _LAST_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rpartition("\r")[2] for line in (lines[1:] if size > _LAST_BYTES else lines)]
