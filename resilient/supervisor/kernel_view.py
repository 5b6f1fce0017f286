"""What the kernel says of a process and its threads, from ``/proc``: all there is when it cannot answer itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from resilient.policy.culprit import Condition
from resilient.supervisor.processes import content, thread_numbers

_CONDITIONS = {"T": Condition.STOPPED, "t": Condition.TRACED, "D": Condition.UNINTERRUPTIBLE}
_MOST_THREADS = 64


def _read(path: Path) -> str:
    return content(path).strip().strip("\0")


def condition(pid: int) -> Condition | None:
    """What the process as a whole is doing; None when it is gone. One with a thread that waits for a device counts as
    waiting for it, for its other threads may be waiting for that one.
    """
    states = {_status(pid, f"task/{thread}").get("State", "?")[0] for thread in thread_numbers(pid)}
    if not states - {"Z", "X", "?"}:
        return None
    return next((found for letter, found in _CONDITIONS.items() if letter in states), Condition.RUNNING)


def is_dead(pid: int) -> bool:
    """Whether the process is gone, or dead and not reaped; for looking often."""
    return content(f"/proc/{pid}/stat").rpartition(") ")[2][:1] in ("", "Z", "X")


def command(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def describe_threads(pid: int) -> Iterator[str]:
    """One paragraph for each thread: its state, what it waits for, and the kernel's stack where that may be read."""
    for thread in thread_numbers(pid)[:_MOST_THREADS]:
        place = Path(f"/proc/{pid}/task/{thread}")
        status = _status(pid, f"task/{thread}")
        words = [f"thread {thread} {status.get('Name', '?')}: {status.get('State', 'gone')}"]
        if (channel := _read(place / "wchan")) not in ("", "0"):
            words.append(f"waits in {channel}")
        if (call := _read(place / "syscall").split(" ")[0]) not in ("", "running", "-1"):
            words.append(f"system call {call}")
        yield ", ".join(words)
        for line in _read(place / "stack").splitlines():
            yield f"    {line}"


def answer_file(pid: int, name: str) -> Path | None:
    """The process's open anonymous file of that name."""
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(path.readlink()).startswith(f"/memfd:{name} "):
                    return path
    return None


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal; without one it might end it."""
    return _has(_status(pid).get("SigCgt", "0"), number)


def is_pending(pid: int, number: int) -> bool:
    """Whether the signal has been sent and not been taken yet."""
    status = _status(pid)
    return _has(status.get("ShdPnd", "0"), number) or _has(status.get("SigPnd", "0"), number)


def blocking(pid: int, number: int) -> frozenset[int]:
    """The threads that hold the signal back, as one does while it handles it."""
    return frozenset(
        thread for thread in thread_numbers(pid) if _has(_status(pid, f"task/{thread}").get("SigBlk", "0"), number)
    )


def _has(mask: str, number: int) -> bool:
    return bool(int(mask, 16) >> (number - 1) & 1)


def _status(pid: int, below: str = "") -> dict[str, str]:
    lines = _read(Path(f"/proc/{pid}/{below}/status")).splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
