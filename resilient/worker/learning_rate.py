"""The learning rate of a plan: lowered while an optimizer steps, and nowhere else.

Each group's ``lr`` is multiplied when ``Optimizer.step`` begins and put back when it has ended, so schedulers of any
form, the state that snapshots take and the script itself see the rate as it would be without, and nothing compounds.

The hooks are those of each optimizer, given to it when it is first seen to step: they run after the global ones, of
which one waits until a snapshot's tensors are copied (:mod:`~resilient.worker.overlap`), and put the rate back before
the global ones that follow a step. Steps that Python does not make are lowered if they were when they were captured in
a CUDA graph.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from typing import Any

import torch
from torch.optim import optimizer as optimizer_module
from torch.optim.optimizer import register_optimizer_step_pre_hook

_LONG_STEPS = 100
_HOOKED = optimizer_module.__file__


class LearningRate:
    """Lowers the rate of every optimizer that steps; with a factor of 1 it touches none."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._known: dict[int, weakref.ref[Any]] = {}  # by identity: an optimizer may define equality
        self._handles: list[Any] = []
        self._stepping: list[Any] = []  # the outermost first: a step may be made of its base class's, or of another's
        self._groups: list[tuple[dict[str, Any], Any, Any]] = []  # with the rate as it was, and as it is now
        self._tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # that rate, and its value as it was
        self._unseen = 0

    def open(self) -> None:
        """Begin. Does nothing a second time."""
        if self._factor != 1.0 and not self._handles:
            meet = torch.compiler.disable(self._meet)  # type: ignore[no-untyped-call]
            self._handles.append(register_optimizer_step_pre_hook(meet))

    def close(self) -> None:
        """Leave all optimizers as they were."""
        self.settle()
        for handle in self._handles:
            handle.remove()
        self._handles, self._known = [], {}

    def settle(self) -> None:
        """No optimizer steps now: put back what a step that has failed in the middle has left."""
        for group, before, lowered in self._groups:
            if group.get("lr") is lowered:  # otherwise the step has set another itself
                group["lr"] = before
        with torch.no_grad():
            for tensor, before in self._tensors.values():
                tensor.copy_(before)
        self._stepping, self._groups, self._tensors = [], [], {}

    def boundary(self) -> None:
        """A training step has ended."""
        self.settle()
        if self._handles and not self._known:
            self._unseen += 1
            if self._unseen == _LONG_STEPS:
                warnings.warn(
                    f"the learning rate is to be multiplied by {self._factor:g}, and in {_LONG_STEPS} steps no "
                    "optimizer of torch has been seen to step: multiply it yourself, by run.lr_factor",
                    stacklevel=2,
                )

    def _meet(self, optimizer: Any, *_: Any) -> None:
        known = self._known.get(id(optimizer))
        if known is not None and known() is optimizer:
            return
        self._known[id(optimizer)] = weakref.ref(optimizer)
        before, after = torch.compiler.disable(self._begins), torch.compiler.disable(self._ends)  # type: ignore[no-untyped-call]
        self._handles += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def _begins(self, optimizer: Any, *_: Any) -> None:
        if self._stepping:
            outermost = self._stepping[0]
            if _calls_of(outermost) == (1 if outermost is optimizer else 0):
                self.settle()  # that step has failed, and is not what this one is made for
        self._stepping.append(optimizer)
        if len(self._stepping) == 1:
            for group in optimizer.param_groups:
                self._lower(group)

    def _ends(self, optimizer: Any, *_: Any) -> None:
        if (
            self._stepping
            and self._stepping[0] is optimizer
            and (len(self._stepping) == 1 or _calls_of(optimizer) == 1)
        ):
            self.settle()

    def _lower(self, group: dict[str, Any]) -> None:
        rate = group.get("lr")
        if isinstance(rate, torch.Tensor):
            if id(rate) not in self._tensors:  # groups may share it
                with torch.no_grad():
                    self._tensors[id(rate)] = rate, rate.detach().clone()
                    rate.mul_(self._factor)
        elif isinstance(rate, (int, float)):
            lowered = rate * self._factor
            self._groups.append((group, rate, lowered))
            group["lr"] = lowered


def _calls_of(optimizer: Any) -> int:
    """How many calls of its ``step`` are under way: more than one where a class calls that of its base."""
    calls, frame = 0, sys._getframe(1)  # noqa: SLF001  asked only where a step begins or ends within another
    while frame is not None:
        if frame.f_code.co_filename == _HOOKED and frame.f_locals.get("self") is optimizer:
            calls += 1
        frame = frame.f_back  # type: ignore[assignment]
    return calls
