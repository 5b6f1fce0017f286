"""SIGTERM in a worker: noted, never acted upon before the next step boundary.

The handler sets a flag and nothing else; saving inside a handler deadlocks and corrupts. The processes that a worker
forks need care of their own. Torch gives its DataLoader workers a handler that ends them, so a SIGTERM to the whole
process group, which is how schedulers send it, would kill them and with them the step that is to be snapshot; they
get one that does nothing. All others get the default action back, so that ``Pool.terminate()`` and the like work as
ever. Blocking the signal by mask instead, here or there, would not do: programs that are started inherit a mask
through ``exec``, and could then not be terminated.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from types import FrameType
from typing import Any

from resilient.protocol.parent import die_with_parent

_loading: weakref.WeakSet[Any] = weakref.WeakSet()  # the DataLoader workers of this process


class SigtermWatch:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.received = False
        self._installed = False
        self._protecting = False
        self._registered = False
        self._seen: tuple[int, int] | None = None  # the two ends of a pipe into which Python writes the signals it sees
        self._previous: Any = signal.SIG_DFL

    def install(self) -> None:
        """Note SIGTERM from now on; a handler that the script had installed before is still called."""
        if self._installed:
            return
        self._installed = True
        self._previous = signal.signal(signal.SIGTERM, self._note)
        self._protect_data_loading()

    def watch(self) -> None:
        """Leave SIGTERM to the script, and only learn whether a handler of its own was called; see :meth:`came`.

        Its DataLoader workers are protected all the same, or its handler would have nothing left to save.
        """
        self._seen = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._seen[1], warn_on_full_buffer=False)
        self._protect_data_loading()

    def came(self) -> bool:
        """Whether SIGTERM has come to this process."""
        if self._seen is not None and not self.received:
            with suppress(BlockingIOError):
                while some := os.read(self._seen[0], 4096):
                    self.received |= signal.SIGTERM in some
        return self.received

    def uninstall(self) -> None:
        """The state is safe: a SIGTERM from now on may do what it does to any process."""
        if self._installed:
            self._installed = self._protecting = False
            signal.signal(signal.SIGTERM, self._previous)

    def _protect_data_loading(self) -> None:
        self._protecting = True
        if not self._registered:
            self._registered = True
            os.register_at_fork(after_in_child=self._in_child, after_in_parent=_remember_data_loading)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if callable(self._previous):
            self._previous(number, frame)

    def _in_child(self) -> None:
        if self._seen is not None:
            signal.set_wakeup_fd(-1)  # what it sees is not for its parent to count
        if not self._protecting:
            return
        if _process_for_data_loading() is not None:
            _survive_sigterm()
        elif self._installed:
            signal.signal(signal.SIGTERM, self._previous)


sigterm = SigtermWatch()


def _remember_data_loading() -> None:
    process = _process_for_data_loading()  # it forgets its target once it is started, so now is the time to look
    if process is not None:
        _loading.add(process)


def _survive_sigterm() -> None:
    """In a new DataLoader worker: a SIGTERM does nothing, before and after torch has installed its own handler."""
    torch_signals: Any = importlib.import_module("torch.utils.data._utils").signal_handling
    install = torch_signals._set_worker_signal_handlers  # noqa: SLF001  called by name at the start of every worker

    def install_and_cover() -> None:
        install()
        signal.signal(signal.SIGTERM, _do_nothing)

    signal.signal(signal.SIGTERM, _do_nothing)
    torch_signals._set_worker_signal_handlers = install_and_cover  # noqa: SLF001  in this process alone


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN, which programs started by a dataset would inherit."""


def kill_data_loading() -> None:
    """SIGKILL the DataLoader workers of this process, at the end of its script.

    They would not heed the SIGTERM by which ``multiprocessing`` ends what is still there at exit, and it would wait for
    ever.
    """
    loading = [process for process in _loading if process.is_alive()]
    if loading:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report their death as an error
    for process in loading:
        process.kill()


def tie_children_to_this_process() -> None:
    """Processes forked by the main thread die with this one, even when it is killed by SIGKILL.

    The kernel ties a child to the forking *thread*, so children of other threads are left out: they would die with
    their thread. So are children's children: a daemon lets go of its parent by having that exit.
    """
    this, tied = os.getpid(), False

    def before() -> None:
        nonlocal tied
        tied = os.getpid() == this and threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        if tied:
            die_with_parent(this)

    os.register_at_fork(before=before, after_in_child=in_child)


def _process_for_data_loading() -> Any:
    """The DataLoader worker that is being forked, or None.

    ``multiprocessing``'s frame with the process is on the stack, on both sides of the fork.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  the way to a caller's locals
    while frame is not None:
        process = frame.f_locals.get("process_obj") if frame.f_code.co_name == "_launch" else None
        if process is not None:
            target = getattr(process, "_target", None)
            return process if str(getattr(target, "__module__", "")).startswith("torch.utils.data") else None
        frame = frame.f_back
    return None
