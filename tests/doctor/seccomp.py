"""A kernel that refuses chosen system calls, or only pretends to do them, for one process and what it starts."""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding
from resilient.doctor.world import World

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _HAS_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_CALLS = {  # of x86-64
    "connect": 42,
    "fcntl": 72,
    "flock": 73,
    "fsync": 74,
    "rename": 82,
    "link": 86,
    "symlink": 88,
    "prctl": 157,
    "ptrace": 101,
    "openat": 257,
    "process_vm_readv": 310,
    "renameat2": 316,
}


@dataclass(frozen=True)
class Refused:
    """A call that fails with ``error``; 0 for one that does nothing and says that it has done it.

    :param bits: only where the argument of this number has these bits.
    """

    call: str
    error: int
    bits: tuple[int, int] | None = None


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction))]


def refuse(calls: Sequence[Refused]) -> None:
    """From now on, for this process and its children, until they end."""
    code: list[tuple[int, int, int, int]] = []
    for refused in calls:
        code.append((_LOAD, 0, 0, 0))
        if refused.bits is None:
            code.append((_EQUAL, 0, 1, _CALLS[refused.call]))
        else:
            argument, bits = refused.bits
            code.append((_EQUAL, 0, 3, _CALLS[refused.call]))
            code += [(_LOAD, 0, 0, 16 + 8 * argument), (_HAS_BITS, 0, 1, bits)]
        code.append((_RETURN, 0, 0, _ERRNO | refused.error))
    code.append((_RETURN, 0, 0, _ALLOW))
    instructions = (_Instruction * len(code))(*(_Instruction(*words) for words in code))
    program = _Program(len(code), ctypes.cast(instructions, ctypes.POINTER(_Instruction)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0, errno.errorcode[ctypes.get_errno()]


def under(check: Check, *calls: Refused) -> Check:
    """The check in a kernel that refuses these calls; for :func:`examine`, which gives it a process of its own."""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of the system calls are known for x86-64 alone")

    def look(world: World) -> Finding | None:
        refuse(calls)
        return check.look(world)

    return replace(check, look=look)
