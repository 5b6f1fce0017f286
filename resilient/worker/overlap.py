"""Copying the optimizer's tensors while the next step's forward and backward run.

Parameters and optimizer state do not change between one ``optimizer.step()`` and the next, so a snapshot of them can
be copied in that time, and the next ``optimizer.step()``, of whatever optimizer, waits for the copy. Nothing else has
such a guarantee: buffers, averages and generators are copied before control returns.

A script may still change a parameter in between, by hand. Torch counts the changes of a tensor in its ``_version``;
if a count has moved at the end of the copy, the copy is void, and from then on everything is copied before control
returns. Writes through ``tensor.data`` are not counted by torch and cannot be seen.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

Done = Callable[[bool], None]
"""Called at the end of a copy: True when it is good, False when a tensor changed meanwhile."""

CopyFunction = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], None]


@dataclass
class _Copy:
    targets: Sequence[torch.Tensor]
    sources: Sequence[torch.Tensor]
    versions: Sequence[int]
    done: Done
    finished: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class Copier:
    """Copies in a thread of its own, one copy at a time.

    :param copy: copies each of some tensors into its target.
    """

    def __init__(self, copy: CopyFunction | None = None) -> None:
        self._copy = copy if copy is not None else copy_all
        self._requests: queue.SimpleQueue[_Copy | None] = queue.SimpleQueue()
        self._current: _Copy | None = None
        self._thread: threading.Thread | None = None
        self._hook: Any = None

    def start(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], done: Done) -> None:
        """Begin to copy; ``done`` is called from the copying thread. The copy before it must have been waited for."""
        if self._thread is None:
            self._hook = register_optimizer_step_pre_hook(torch.compiler.disable(self._before_step))  # type: ignore[no-untyped-call]
            self._thread = threading.Thread(target=self._run, name="resilient-copy", daemon=True)
            self._thread.start()
            atexit.register(self._settle)  # a daemon thread inside torch would bring the ending process down
        self._current = _Copy(targets, sources, [tensor._version for tensor in sources], done)  # noqa: SLF001
        self._requests.put(self._current)

    def wait(self) -> None:
        """Return when nothing is being copied; an error of the copy or of ``done`` is raised here."""
        current = self._current
        if current is None:
            return
        current.finished.wait()
        self._current = None
        if current.error is not None:
            raise current.error

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
        if self._current is not None:
            self._current.finished.wait()

    def _before_step(self, *_: Any) -> None:
        self.wait()

    def _run(self) -> None:
        while (copy := self._requests.get()) is not None:
            try:
                self._copy(copy.targets, copy.sources)
                unchanged = all(
                    tensor._version == version  # noqa: SLF001  the only way to ask
                    for tensor, version in zip(copy.sources, copy.versions, strict=True)
                )
                copy.done(unchanged)
            except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
                copy.error = error
            finally:
                copy.finished.set()


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy each source into its target."""
    if targets:
        with torch.no_grad():
            torch._foreach_copy_(list(targets), list(sources))  # one call for all


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
