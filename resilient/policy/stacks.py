"""Reading stacks: from what faulthandler and py-spy write to one line that tells a person where a process is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OURS = __file__.rpartition("policy/")[0]  # where this package is
_LIBRARY = re.compile(r"(?:/lib/python3[.\d]*)?/(?:site|dist)-packages/|/lib/python3[.\d]*/|^<")
_THREAD = re.compile(r"(?P<current>Current thread|Thread) (?P<id>0x[0-9a-f]+|\d+)\b[^\n]*")
_FILE = r"(?P<file>[^\n]*\.py|<[^\n]*>)"
_FAULTHANDLER_FRAME = re.compile(rf'  File "{_FILE}", line (?P<line>\d+) in (?P<function>[^\n]*)')
_PY_SPY_FRAME = re.compile(rf"    (?P<function>\S[^\n]*) \({_FILE}:(?P<line>\d+)\)")


@dataclass(frozen=True)
class Frame:
    """One call of a Python function."""

    function: str
    file: str
    line: int

    @property
    def ours(self) -> bool:
        return self.file.startswith(_OURS)

    @property
    def users(self) -> bool:
        """Whether it is the user's own code."""
        return not self.ours and _LIBRARY.search(self.file) is None

    def __str__(self) -> str:
        short = _LIBRARY.split(self.file)[-1] if not self.users and not self.file.startswith("<") else self.file
        return f"{self.function} ({short.rpartition('/')[2] if self.users else short}:{self.line})"


@dataclass(frozen=True)
class Stack:
    """One thread's frames, innermost first."""

    main: bool
    frames: tuple[Frame, ...]


def parse_stacks(text: str) -> list[Stack]:
    """All threads with Python frames in a dump of faulthandler or py-spy. Frames of C code are left out."""
    found: list[tuple[bool, list[Frame]]] = []
    for line in text.splitlines():
        if thread := _THREAD.fullmatch(line.rstrip()):
            found.append((bool(thread["current"] == "Current thread" or '"MainThread"' in line), []))
        elif found and (frame := _FAULTHANDLER_FRAME.fullmatch(line) or _PY_SPY_FRAME.fullmatch(line)):
            found[-1][1].append(Frame(frame["function"], frame["file"], int(frame["line"])))
    return [Stack(main, tuple(frames)) for main, frames in found if frames]


def main_stack(text: str) -> Stack | None:
    """The main thread's stack; the kernel has it handle the signal whenever it can."""
    stacks = parse_stacks(text)
    return next((stack for stack in stacks if stack.main), stacks[-1] if stacks else None)


def describe(frames: Sequence[Frame]) -> str:
    """What the user's code has called and where: the innermost frame of the user's, and the call that it waits for."""
    if not frames:
        return ""
    place = next((index for index, frame in enumerate(frames) if frame.users), None)
    if place is None:
        return str(frames[0])
    called = [frame for frame in frames[:place] if not frame.ours and not frame.file.startswith("<")]
    return f"{called[-1].function}, called by {frames[place]}" if called else str(frames[place])


_COLLECTIVE = re.compile(
    r"/torch/(?:distributed|nn/parallel)/|/torch/autograd/graph\.py$|/torch/_tensor\.py$|/resilient/worker/group\.py$"
)


def waits_for_ranks(frames: Sequence[Frame]) -> bool:
    """Whether it is in something that all ranks do together: a collective, a backward pass, which may have one, or an
    agreement at a step boundary.
    """
    return any(_COLLECTIVE.search(frame.file) for frame in _called(frames))


def waits_for_data(frames: Sequence[Frame]) -> bool:
    """Whether it waits for a DataLoader's processes."""
    return any(frame.file.endswith("torch/utils/data/dataloader.py") for frame in _called(frames))


def is_idle_loader(frames: Sequence[Frame]) -> bool:
    """Whether it is a DataLoader's process that has nothing to do."""
    for inner, outer in zip(frames, frames[1:], strict=False):
        if outer.function == "_worker_loop":
            return inner.function.rpartition(".")[2] == "get"
    return False


def _called(frames: Sequence[Frame]) -> Iterator[Frame]:
    for frame in frames:
        if frame.users:
            return
        yield frame
