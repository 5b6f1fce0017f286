"""The steps of a script that knows nothing of us, counted at its optimizers.

Torch calls a global hook after every ``Optimizer.step``, whoever calls it. It counts for each optimizer on its own,
and the step of the script is the furthest of them: the two optimizers of a GAN, or one for each parameter, are one
step. An optimizer that is made later joins at the step that was reached by then. A step that ``GradScaler`` leaves out
because of an infinity is none.

Processes that the script starts by ``multiprocessing``'s *spawn*, as ``torch.multiprocessing.spawn`` does, count on
the same board; forked ones have the hook anyway. They all step together, so that the furthest of them is what counts.
"""

from __future__ import annotations

import importlib.util
import multiprocessing.spawn
import multiprocessing.util
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from resilient.protocol.board import Board, Flag, Word, WorkerPhase
from resilient.worker.log_file import rotate_if_large

_OPTIMIZER = "torch.optim.optimizer"


def _nobody() -> None:
    """Stands for a reference to what is gone."""


class StepCounter:
    """Counts onto a board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._start = self._step = board[Word.STEP]
        self._steps: dict[int, tuple[weakref.ref[Any], int]] = {}  # by identity: an optimizer may define equality

    def count(self, optimizer: Any, _args: Any = (), _kwargs: Any = None) -> None:
        """One more step of ``optimizer`` is done."""
        known, before = self._steps.get(id(optimizer), (_nobody, 0))
        step = before + 1 if known() is optimizer else max(self._step, self._start + 1)
        self._steps[id(optimizer)] = weakref.ref(optimizer), step
        self._step = max(self._step, step)
        self._board.beat(WorkerPhase.STEP, self._step if self._step > self._board[Word.STEP] else None)


class Progress:
    """The counting in this process, from the worker's beginning to ``resilient.attach``, if that is ever called."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._counter: StepCounter | None = None
        self._handle: Any = None
        self._finder: MetaPathFinder | None = None
        self._preparation: Callable[..., Any] | None = None

    def begin(self, board: str) -> None:
        """In the worker: count here, and in the processes it spawns."""
        self.join(board)
        if self._board is not None:
            self._board[Word.PID] = os.getpid()
            self._reach_spawned(board)

    def join(self, board: str) -> None:
        """In a process of the script: count from now on, or from when it imports torch."""
        try:
            self._board = Board.open(Path(board))
        except (OSError, ValueError):
            return  # the run is over, or another version's: nobody to count for
        self._counter = StepCounter(self._board)
        if _OPTIMIZER in sys.modules:
            self._register(sys.modules[_OPTIMIZER])
        else:
            self._finder = _AfterImport(_OPTIMIZER, self._register)
            sys.meta_path.insert(0, self._finder)

    def withdraw(self) -> None:
        """The script has attached itself: its own steps are what counts."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self._finder is not None:
            with suppress(ValueError):
                sys.meta_path.remove(self._finder)
            self._finder = None
        if self._preparation is not None:
            multiprocessing.spawn.get_preparation_data = self._preparation
            self._preparation = None

    def end(self, *, asked: bool) -> None:
        """The script has ended.

        :param asked: a SIGTERM had come, which the script has seen to itself: exit 0 does not mean that it has finished
            then.
        """
        if self._board is not None and asked:
            self._board.raise_flag(Flag.ASKED)

    def _register(self, module: ModuleType) -> None:
        counter = self._counter
        if counter is None:
            return
        torch: Any = sys.modules["torch"]  # its import may not be over

        def after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
            if not torch.compiler.is_compiling():  # a compiled step is left as it is, and not counted
                counter.count(optimizer, args, kwargs)
                rotate_if_large()

        self._handle = module.register_optimizer_step_post_hook(after_step)

    def _reach_spawned(self, board: str) -> None:
        original = self._preparation = multiprocessing.spawn.get_preparation_data

        def with_ours(*args: Any, **kwargs: Any) -> dict[str, Any]:
            data: dict[str, Any] = original(*args, **kwargs)
            return {**data, "resilient": _Joining(board)}

        multiprocessing.spawn.get_preparation_data = with_ours


progress = Progress()


class _Joining:
    """What a spawned process unpickles first. Where it does not find this package, it does without."""

    def __init__(self, board: str) -> None:
        self._board = board

    def __reduce__(self) -> tuple[Any, ...]:
        source = (
            "try:\n"
            "    from resilient.worker.progress import progress\n"
            f"    progress.join({self._board!r})\n"
            "except Exception:\n"
            "    pass"
        )
        return exec, (source,)


class _AfterImport(MetaPathFinder):
    """Calls a function with a module once that is imported, and leaves no trace."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  the interface's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(fullname)
        if found is None or found.loader is None:
            return None
        found.loader = _LoaderWithSequel(found.loader, self._then)
        return found


class _LoaderWithSequel(Loader):
    def __init__(self, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then(module)
