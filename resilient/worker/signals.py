"""SIGTERM in a worker: noted, never acted upon before the next step boundary.

The handler sets a flag and nothing else; saving inside a handler deadlocks and corrupts. The processes that a worker
forks need care of their own. DataLoader workers block SIGTERM by mask: torch gives them a handler that ends them, so
a SIGTERM to the whole process group, which is how schedulers send it, would kill them and with them the step that is
to be snapshot. All others get the default action back, so that ``Pool.terminate()`` and the like work as ever.
Blocking in the worker itself would not do: programs it starts would inherit the mask through ``exec`` and could not
be terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from resilient.protocol.parent import die_with_parent


class SigtermWatch:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.received = False
        self._installed = False
        self._previous: Any = signal.SIG_DFL

    def install(self) -> None:
        """Note SIGTERM from now on; a handler that the script had installed before is still called."""
        if self._installed:
            return
        self._installed = True
        self._previous = signal.signal(signal.SIGTERM, self._note)
        os.register_at_fork(after_in_child=self._in_child)

    def uninstall(self) -> None:
        """The state is safe: a SIGTERM from now on may do what it does to any process."""
        if self._installed:
            self._installed = False
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if callable(self._previous):
            self._previous(number, frame)

    def _in_child(self) -> None:
        if not self._installed:
            return
        if _forked_for_data_loading():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        else:
            signal.signal(signal.SIGTERM, self._previous)


sigterm = SigtermWatch()


def tie_children_to_this_process() -> None:
    """Processes forked by the main thread die with this one, even when it is killed by SIGKILL.

    The kernel ties a child to the forking *thread*, so children of other threads are left out: they would die with
    their thread.
    """
    forker = {"pid": 0, "is_main": False}

    def before() -> None:
        forker["pid"] = os.getpid()
        forker["is_main"] = threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        if forker["is_main"]:
            die_with_parent(forker["pid"])

    os.register_at_fork(before=before, after_in_child=in_child)


def _forked_for_data_loading() -> bool:
    """Whether this process was just forked as a DataLoader worker: ``multiprocessing``'s frame with the process is on
    the stack.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  the way to a caller's locals
    while frame is not None:
        process = frame.f_locals.get("process_obj") if frame.f_code.co_name == "_launch" else None
        if process is not None:
            return str(getattr(getattr(process, "_target", None), "__module__", "")).startswith("torch.utils.data")
        frame = frame.f_back
    return False
