"""Faults inside a training process, for drills and tests: imported only where the environment names this run.

They act in the middle of a step: before an optimizer's step, when the gradients are there, or as the backward pass
begins; bits flip where the thing has just been made that they are flipped in (:mod:`resilient.worker.flip`). A script
in which no torch optimizer steps cannot be hit from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from resilient.protocol.board import Board, Flag, Word
from resilient.protocol.drill import Order, Record, is_drilled
from resilient.protocol.environment import WorkerEnvironment, is_elsewhere
from resilient.protocol.paths import RunPaths
from resilient.protocol.plan import RoundPlan
from resilient.worker.flip import Flips

_HEADROOM = 64 << 20
_PIECE = 16 << 20
_GIVE_UP = 4 << 30  # a limit that is not kept must not cost the machine all its memory


def arm() -> None:
    """Let this worker carry out what a drill orders. Does nothing in a run that is not drilled."""
    environment = WorkerEnvironment.read()
    if environment is None:
        return
    plan = RoundPlan.read(environment.plan)
    paths = RunPaths(Path(plan.run_root))
    if not is_drilled(paths):
        return
    injector = Injector(
        paths, environment.rank, Board.open(Path(plan.memory_dir) / f"rank-{environment.rank:05d}.board")
    )
    injector.flips.arm()
    disable: Callable[..., Any] = torch.compiler.disable
    register_optimizer_step_pre_hook(disable(injector.before_step))
    register_optimizer_step_post_hook(disable(injector.after_step))
    torch.autograd.backward = injector.wrap_backward(torch.autograd.backward)


class Injector:
    """Looks at every step for an order, and carries it out once."""

    def __init__(self, paths: RunPaths, rank: int, board: Board) -> None:
        self._paths = paths
        self._rank = rank
        self._board = board
        self._seen = 0  # optimizer steps, for a script that does not say in which step it is
        self._multiplying: Order | None = None
        self._until = 0
        self._rates: list[tuple[dict[str, Any], Any]] = []
        self._asked: dict[str, int] = {}  # the last step in which each thing had the chance to be flipped
        self.flips = Flips(self._flip_of)

    @property
    def step(self) -> int:
        """The step that is being done, counted from 1."""
        return (self._board[Word.STEP] if self._board.has_flag(Flag.ATTACHED) else self._seen) + 1

    def wrap_backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        """``torch.autograd.backward``, with losses and gradients multiplied where that is ordered."""

        def wrapped(tensors: Any, grad_tensors: Any = None, *rest: Any, **named: Any) -> None:
            factor = self._factor()
            roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
            if factor is None:
                self.flips.before_backward(roots)
                backward(tensors, grad_tensors, *rest, **named)
                self.flips.after_backward(roots)
                return
            given = [grad_tensors] if isinstance(grad_tensors, torch.Tensor) else list(grad_tensors or [])
            begins = [
                _multiplied(root, grad, factor) for root, grad in zip(roots, given or [None] * len(roots), strict=True)
            ]
            backward(roots, begins, *rest, **named)

        return wrapped

    def before_step(self, optimizer: Any, *_: Any) -> None:
        order = self._due()
        if order is not None and order.fault in _STRIKES:
            self._record(order, _SAYS[order.fault])
            _STRIKES[order.fault](order)
        elif (factor := self._factor()) is not None:
            self._multiply(optimizer, factor)

    def after_step(self, *_: Any) -> None:
        self._seen += 1
        for group, rate in self._rates:
            group["lr"] = rate
        self._rates.clear()

    def _multiply(self, optimizer: Any, factor: float) -> None:
        for group in optimizer.param_groups:
            if factor != factor:  # noqa: PLR0124  not a number: for a backward pass that torch.autograd.backward did not do
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.data.mul_(factor)
            elif "lr" in group:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * factor

    def _factor(self) -> float | None:
        """What this step's loss and gradients are multiplied by, or None."""
        order = self._due()
        if order is not None and order.fault in _MULTIPLIES:
            self._multiplying, self._until = order, self.step + order.steps - 1
            self._record(order, _SAYS[order.fault].format(order.factor, order.steps))
        if self._multiplying is None or self.step > self._until:
            self._multiplying = None
            return None
        return float("nan") if self._multiplying.fault == "nan" else self._multiplying.factor

    def _due(self) -> Order | None:
        """An order for this step that nobody has carried out."""
        order = Order.read(self._paths)
        if order is None or order.rank != self._rank or self.step < order.at:
            return None
        return None if Record.read(self._paths, order.id) is not None else order

    def _flip_of(self, what: str) -> Order | None:
        """The order to flip a bit of ``what`` now: once, or in every pass of that step over this device."""
        if self._asked.get(what) == self.step:
            return None
        self._asked[what] = self.step
        order = Order.read(self._paths)
        if order is None or order.fault != "flip" or order.what != what or order.rank != self._rank:
            return None
        if order.persistent and (self.step != max(order.at, 1) or is_elsewhere()):
            return None
        if not order.persistent and self._due() is None:
            return None
        self._record(order, _SAYS["flip"].format(order.bit, order.what))
        return order

    def _record(self, order: Order, what: str) -> None:
        text = f"{what} in step {self.step} of rank {self._rank}"
        Record(order.id, time.time(), self.step, text).write(self._paths)
        print(f"resilient: drill: {text}", file=sys.stderr, flush=True)


def _multiplied(root: torch.Tensor, grad: torch.Tensor | None, factor: float) -> torch.Tensor:
    """Multiply a loss in place, and return the gradient to begin with."""
    begin = torch.ones_like(root) if grad is None else grad
    root.data.mul_(factor)
    return begin * factor


def _segv(_: Order) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def _abort(_: Order) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def _hang(order: Order) -> None:
    began = time.monotonic()
    while not order.seconds or time.monotonic() - began < order.seconds:
        time.sleep(0.05)


def _out_of_memory(order: Order) -> None:
    if order.limit:
        _fill_group(order)
    _fill_address_space()


def _fill_group(order: Order) -> None:
    """Bring the control group to its limit: the kernel kills this process, which says that it wants to be first."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    Path(order.limit).write_text(str(int(Path(order.usage).read_text()) + _HEADROOM))
    held: list[bytes] = []
    while len(held) * _PIECE < _GIVE_UP:
        held.append(b"x" * _PIECE)  # not zeros: those would take no memory
    raise MemoryError("the memory limit of the control group was not kept")


def _fill_address_space() -> NoReturn:
    """Without such a group: an allocation fails, as under a limit of the shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _HEADROOM, hard))
    held: list[bytes] = []
    try:
        while True:
            held.append(bytes(_PIECE))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_STRIKES: Mapping[str, Callable[[Order], None]] = {
    "segv": _segv,
    "abort": _abort,
    "hang": _hang,
    "oom": _out_of_memory,
}
_MULTIPLIES = frozenset({"nan", "spike"})
_SAYS: Mapping[str, str] = {
    "segv": "a null pointer is read",
    "abort": "abort() is called",
    "hang": "the training thread stands still",
    "oom": "memory is used up",
    "flip": "bit {} flips in a {}",
    "nan": "loss and gradients become NaN",
    "spike": "loss, gradients and learning rate are multiplied by {:g} for {} steps, first",
}
