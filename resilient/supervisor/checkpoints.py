"""The checkpoints that a script writes itself: which of them a round is to resume from."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resilient.snapshot.foreign import find_defect

_CRASHES = 2  # in a row without a step, after which a checkpoint is passed over
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Checkpoint:
    """A file or directory that the script may resume from.

    :param name: its path as the glob finds it: relative where that is.
    :param modified: seconds since the epoch.
    """

    name: str
    modified: float

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(text) for text in _NUMBERS.findall(Path(self.name).name))

    @property
    def skeleton(self) -> str:
        """Its name without the numbers: what is alike can be ordered by them."""
        return _NUMBERS.sub("#", Path(self.name).name)


def newest_first(found: Sequence[Checkpoint]) -> list[Checkpoint]:
    """By the numbers in the names where they are of one kind, otherwise by time."""
    if len({checkpoint.skeleton for checkpoint in found}) == 1 and found[0].numbers:
        return sorted(found, key=lambda checkpoint: (checkpoint.numbers, checkpoint.modified), reverse=True)
    return sorted(found, key=lambda checkpoint: (checkpoint.modified, checkpoint.numbers), reverse=True)


def fill_in(arguments: Sequence[str], checkpoint: Checkpoint) -> tuple[str, ...]:
    """The arguments with ``{latest}``, ``{latest_dir}`` and ``{step}`` replaced; other braces are left as they are."""
    path = Path(checkpoint.name)
    values = {"{latest}": checkpoint.name, "{latest_dir}": str(path.parent), "{step}": ""}
    if checkpoint.numbers:
        values["{step}"] = str(checkpoint.numbers[-1])
    filled = []
    for argument in arguments:
        text = argument
        for name, value in values.items():
            text = text.replace(name, value)
        filled.append(text)
    return tuple(filled)


class OwnCheckpoints:
    """Finds the newest complete checkpoint anew for every round, and remembers which did no good.

    One that the script crashes on twice, before its first step, is passed over for the next older one. Where there is
    none older, it is tried again all the same: to begin anew would lose everything, and is not ours to choose.
    """

    def __init__(
        self,
        globs: Sequence[str],
        directory: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._globs = globs
        self._directory = directory
        self._say = say
        self._clock = clock
        self._crashes: dict[Checkpoint, int] = {}
        self._told: set[tuple[str, str]] = set()
        self.used: Checkpoint | None = None

    def choose(self, ended: float | None = None) -> Checkpoint | None:
        """The checkpoint to resume from, or None where there is none.

        :param ended: when the script ended; by default now.
        """
        sound = []
        for checkpoint in newest_first(self._find()):
            defect = find_defect(self._directory / checkpoint.name, ended=self._clock() if ended is None else ended)
            if defect is not None:
                self._tell(checkpoint, f"is not complete ({defect}) and is passed over")
                continue
            sound.append(checkpoint)
            if self._crashes.get(checkpoint, 0) < _CRASHES:
                break
        good = [checkpoint for checkpoint in sound if self._crashes.get(checkpoint, 0) < _CRASHES]
        self.used = good[0] if good else next(iter(sound), None)
        crashed = f"the script has crashed on it {_CRASHES} times"
        for checkpoint in sound:
            if checkpoint != self.used:
                self._tell(checkpoint, f"is passed over: {crashed}")
            elif not good:
                self._tell(checkpoint, f"is tried again, though {crashed}: there is no better one")
        return self.used

    def crashed(self, *, progressed: bool) -> None:
        """The round that resumed from the chosen checkpoint has ended with a failure."""
        if self.used is None:
            return
        if progressed:
            self._crashes.pop(self.used, None)
        else:
            self._crashes[self.used] = self._crashes.get(self.used, 0) + 1

    def _find(self) -> list[Checkpoint]:
        found: dict[str, Checkpoint] = {}
        for pattern in self._globs:
            # Not Path.glob, which refuses absolute patterns and follows no links.
            for path in glob.glob(pattern, root_dir=self._directory, recursive=True):  # noqa: PTH207
                name = path.rstrip("/")
                try:
                    found[name] = Checkpoint(name, (self._directory / name).stat().st_mtime)
                except OSError:
                    continue  # removed in this moment, by the script's own clearing up
        return list(found.values())

    def _tell(self, checkpoint: Checkpoint, what: str) -> None:
        if (checkpoint.name, what) not in self._told:
            self._told.add((checkpoint.name, what))
            self._say(f"checkpoint {checkpoint.name} {what}")
