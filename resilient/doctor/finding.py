"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad it is, from good to bad."""

    OK = "ok"
    NOTE = "note"  # worth knowing; everything works
    WARNING = "warning"  # works, but worse than it could, or not in every case
    PROBLEM = "problem"  # will not work

    @property
    def rank(self) -> int:
        return list(Level).index(self)


@dataclass(frozen=True)
class Finding:
    """One sentence for a person, and what that person does next, if anything."""

    level: Level
    sentence: str
    next_step: str = ""


def ok(sentence: str) -> Finding:
    return Finding(Level.OK, sentence)


def note(sentence: str, next_step: str = "") -> Finding:
    return Finding(Level.NOTE, sentence, next_step)


def warning(sentence: str, next_step: str) -> Finding:
    return Finding(Level.WARNING, sentence, next_step)


def problem(sentence: str, next_step: str) -> Finding:
    return Finding(Level.PROBLEM, sentence, next_step)
