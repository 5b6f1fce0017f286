"""All checks at once, each in a process of its own that is killed when its time is up.

Not in threads: a thread that waits for a dead file server can neither be ended nor left behind, and would keep the
doctor from ending. A process in that state does not die at once either, but nobody has to wait for it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from resilient.doctor.check import Check, Result
from resilient.doctor.finding import Finding, Level, note, warning
from resilient.doctor.world import NoPlaceToTry, World
from resilient.protocol.parent import die_with_parent

_LONGEST = 1 << 20  # bytes of an answer


def examine(checks: Sequence[Check], world: World) -> list[Result]:
    """Carry out the checks; the results are in their order, without those that had nothing to look at. Takes about as
    long as the slowest.
    """
    findings: dict[str, Finding | None] = {}
    try:
        for check in checks:
            if check.alone:
                findings |= _all_at_once([check], world)
        findings |= _all_at_once([check for check in checks if not check.alone], world)
    finally:
        swept = _all_at_once([_SWEEP], world)[_SWEEP.name]
    found = [(check, findings[check.name]) for check in checks] + [(_SWEEP, swept)]
    return [Result(check, finding) for check, finding in found if finding is not None]


def _all_at_once(checks: Sequence[Check], world: World) -> dict[str, Finding | None]:
    running: dict[int, _Running] = {}
    try:
        for check in checks:
            started = _Running.start(check, world)
            running[started.descriptor] = started
        return _gather(running)
    finally:
        for each in running.values():
            each.end()


def _gather(running: dict[int, _Running]) -> dict[str, Finding | None]:
    findings: dict[str, Finding | None] = {}
    waiting = dict(running)
    while waiting:
        until = min(each.deadline for each in waiting.values())
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, until - time.monotonic()))
        for descriptor in ready:
            if waiting[descriptor].hear():
                each = waiting.pop(descriptor)
                findings[each.check.name] = each.finding()
        for descriptor, each in list(waiting.items()):
            if time.monotonic() >= each.deadline and descriptor not in ready:
                findings[each.check.name] = each.check.given_up()
                del waiting[descriptor]
    return findings


@dataclass
class _Running:
    """A check in its process.

    :ivar heard: what it has answered so far.
    """

    check: Check
    pid: int
    descriptor: int
    deadline: float
    heard: bytes = b""

    @classmethod
    def start(cls, check: Check, world: World) -> _Running:
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _carry_out(check, world, writing, parent)
        os.close(writing)
        return cls(check, pid, reading, time.monotonic() + check.seconds)

    def hear(self) -> bool:
        """Take what it has said; returns whether that was all."""
        piece = os.read(self.descriptor, 1 << 16)
        self.heard += piece
        return not piece or len(self.heard) > _LONGEST

    def finding(self) -> Finding | None:
        try:
            heard = json.loads(self.heard)
            return None if heard is None else Finding(Level(heard[0]), heard[1], heard[2])
        except ValueError:
            return warning("the check ended without an answer", "please report it; it is a bug, or it was killed")

    def end(self) -> None:
        """Kill it, with what it has started, if it is still there."""
        os.close(self.descriptor)
        for kill in (os.killpg, os.kill):  # it may not have begun its session yet
            with suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)
        patience = time.monotonic() + 0.5
        with suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel reaps
            while os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < patience:
                time.sleep(0.002)


def _carry_out(check: Check, world: World, writing: int, parent: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        die_with_parent(parent)
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        found = look(check, world)
        told = None if found is None else [found.level.value, found.sentence, found.next_step]
        os.write(writing, json.dumps(told).encode())
        code = 0
    finally:
        os._exit(code)


def look(check: Check, world: World) -> Finding | None:
    """The finding of one check, whatever it raises."""
    try:
        return check.look(world)
    except NoPlaceToTry as error:
        return note(f"this could not be tried: {error}")
    except Exception as error:  # noqa: BLE001  one check that fails must not keep the others' results back
        return warning(f"the check failed: {type(error).__name__}: {error}", "please report it, if it is not explained")


def _swept(world: World) -> Finding | None:
    left = world.sweep()
    if not left:
        return None
    return warning(f"left behind: {', '.join(map(str, left))}", "remove it when the filesystem answers again")


_SWEEP = Check("doctor.sweep", "removes what the checks have left", _swept)
