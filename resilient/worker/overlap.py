"""Copying the optimizer's tensors while the next step's forward and backward run.

Parameters and optimizer state do not change between one ``optimizer.step()`` and the next, so a snapshot of them can
be copied in that time. Nothing else has such a guarantee: buffers, averages and generators are copied before control
returns.

The next ``optimizer.step()``, of whatever optimizer, comes after the copy. Tensors on the CPU are copied by a thread,
and the step waits for it. Those on an accelerator are copied by the device: the step's work there is put in line behind
the copy, and the host waits for nothing but the copy's being in line too.

A script may still change a parameter in between, by hand; a :class:`~resilient.worker.guard.Guard` looks for that, at
the last moment before the optimizer may change it: at the end of the copy, or when the next step begins, whichever
comes first. Then the copy is void.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resilient.worker.guard import Guard, Samples

Done = Callable[[bool], None]
"""Called at the end of a copy: True when it is good, False when a tensor changed meanwhile."""

CopyFunction = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], None]

Piece = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]
"""Targets and sources that are copied together."""


class DeviceCopy(Protocol):
    """The copy of tensors that lie on accelerators."""

    @property
    def guarded(self) -> Sequence[torch.Tensor]:
        """Those that must not change before the next optimizer step."""
        ...

    def issue(self) -> None:
        """Put the copy in line behind the work of the step boundary; called in the copying thread."""
        ...

    def order(self) -> None:
        """Put all work that the calling thread issues from now on in line behind the copy."""
        ...

    def wait(self) -> None:
        """Return when the copy has happened; called in the copying thread."""
        ...


@dataclass
class _Copy:
    """A copy under way. ``issued``: from now on the host may issue changes; ``finished``: all is over."""

    pieces: Iterable[Piece]
    device: DeviceCopy | None
    guard: Guard
    done: Done
    issued: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _verdict: bool | None = None

    def judge(self) -> bool:
        """Whether the sources were unchanged when this was first asked, by whichever thread came first."""
        with self._lock:
            if self._verdict is None:
                self._verdict = self.guard.unchanged()
            return self._verdict


class Copier:
    """Copies in a thread of its own, one copy at a time.

    :param copy: copies each of some tensors into its target.
    """

    def __init__(self, copy: CopyFunction | None = None) -> None:
        self._copy = copy if copy is not None else copy_all
        self._requests: queue.SimpleQueue[_Copy | None] = queue.SimpleQueue()
        self._current: _Copy | None = None
        self._samples = Samples([])
        self._thread: threading.Thread | None = None
        self._owner = 0  # the process that has the thread; in one that is forked from it nothing is copied
        self._waited = 0.0
        self._hook: Any = None

    def start(
        self,
        targets: Sequence[torch.Tensor],
        sources: Sequence[torch.Tensor],
        done: Done,
        device: DeviceCopy | None = None,
        *,
        pieces: Iterable[Piece] | None = None,
        watched: Sequence[torch.Tensor] = (),
    ) -> None:
        """Begin to copy; ``done`` is called from the copying thread. The copy before it must have been waited for.

        :param pieces: the same tensors, to be copied one piece after the other; without them, all at once.
        :param watched: further tensors that must not change meanwhile, as far as their versions tell.
        """
        if self._thread is None:
            self._hook = register_optimizer_step_pre_hook(torch.compiler.disable(self._before_step))  # type: ignore[no-untyped-call]
            self._thread = threading.Thread(target=self._run, name="resilient-copy", daemon=True)
            self._thread.start()
            self._owner = os.getpid()
            atexit.register(self._settle)  # a daemon thread inside torch would bring the ending process down
        guarded = [*sources, *device.guarded] if device is not None else sources
        self._samples = self._samples.of(guarded)
        self._current = _Copy(pieces or [(targets, sources)], device, Guard([*guarded, *watched], self._samples), done)
        self._requests.put(self._current)

    def wait(self) -> None:
        """Return when nothing is being copied; an error of the copy or of ``done`` is raised here."""
        current = self._under_way()
        if current is None:
            return
        self._wait_for(current.finished)
        self._current = None
        if current.error is not None:
            raise current.error

    def take_waited(self) -> float:
        """Seconds that training has waited for copies since this was asked last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Wait, and take the hook off the optimizers again."""
        self.wait()
        if self._thread is not None:
            self._hook.remove()
            self._requests.put(None)
            self._thread.join()
            self._thread = None

    def _settle(self) -> None:
        """At the end of the process, whatever ends it: let the copy under way come to its end."""
        current = self._under_way()
        if current is not None:
            current.finished.wait()

    def _under_way(self) -> _Copy | None:
        return self._current if os.getpid() == self._owner else None

    def _wait_for(self, event: threading.Event) -> None:
        began = time.monotonic()
        event.wait()
        self._waited += time.monotonic() - began

    def _before_step(self, *_: Any) -> None:
        current = self._under_way()
        if current is None:
            return
        self._wait_for(current.issued)
        if current.device is None or current.error is not None:
            self.wait()
            return
        current.judge()  # the step's own changes, which only wait in line, are not held against the copy
        current.device.order()

    def _run(self) -> None:
        while (copy := self._requests.get()) is not None:
            try:
                for targets, sources in copy.pieces:
                    self._copy(targets, sources)
                if copy.device is not None:
                    copy.device.issue()
                    copy.issued.set()
                    copy.device.wait()
                copy.done(copy.judge())
            except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
                copy.error = error
            finally:
                copy.issued.set()
                copy.finished.set()


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], *, non_blocking: bool = False) -> None:
    """Copy each source into its target."""
    if targets:
        with torch.no_grad():  # one call for all, so that the interpreter is free for the training meanwhile
            torch._foreach_copy_(list(targets), list(sources), non_blocking)


class Trust:
    """Whether snapshots are overlapped. After a void one, the next is not; after three, none is any more."""

    _MOST_VOIDS = 3

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._voids = 0
        self._once_without = False
        self._warned = False

    def allows(self) -> bool:
        """Whether the snapshot about to be taken may be overlapped."""
        once_without, self._once_without = self._once_without, False
        return self._on and not once_without and self._voids < self._MOST_VOIDS

    def voided(self) -> None:
        """A tensor changed while it was being copied."""
        self._voids += 1
        self._once_without = True

    def lost_first(self) -> bool:
        """True once, after the first void copy: it is worth a warning."""
        first = self._voids > 0 and not self._warned
        self._warned |= first
        return first
