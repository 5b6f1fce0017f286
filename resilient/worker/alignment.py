"""Gradient accumulation: at which step boundaries a snapshot is the whole truth.

Gradients are not part of a snapshot, so one that is taken while they are being accumulated would not resume bit for
bit. A boundary is *aligned* when nothing is half done: one of the registered optimizers has stepped since the boundary
before, or none of their parameters holds a gradient. Where no torch optimizer is registered, every boundary is. An
object that sums up gradients where nobody sees them, as the engines of frameworks do, has ``holds_gradients()``, and no
boundary is aligned while that says so.

A gradient scaler that finds an infinite gradient skips the optimizer's step; its ``update()`` then stands for it.

Steps that Python does not make, such as those in a CUDA graph that is replayed, are not seen. Where none has been seen
in a very long time, and none ever, or none in very many steps, boundaries count as aligned all the same until one is: a
snapshot that may lack gradients is better than none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

_LONG_STEPS = 1000
_LONG_SECONDS = 600.0


class Alignment:
    """Watches the steps of the optimizers among ``objects``.

    :param clock: seconds.
    :ivar aligned: whether the last boundary was; what has not begun yet is.
    :ivar seen: whether steps of a registered optimizer are seen. Without, nothing says when the tensors that they own
        may change.
    """

    def __init__(self, objects: Mapping[str, Any], clock: Callable[[], float]) -> None:
        found = objects.values()
        self._optimizers = [item for item in found if isinstance(item, torch.optim.Optimizer)]
        self._known = {id(optimizer) for optimizer in self._optimizers}
        self._scalers = [item for item in found if isinstance(item, torch.amp.GradScaler)]
        self._holders = [item for item in found if callable(getattr(item, "holds_gradients", None))]
        self._updates = self._marks()
        self._stepped = False
        self._hook: Any = None
        self._clock = clock
        self._waiting: tuple[int, float] | None = None
        self._warned = False
        self.aligned = True
        self.seen = False

    def open(self) -> None:
        """Begin to watch. Does nothing when there is nothing to watch, or a second time."""
        if self._optimizers and self._hook is None:
            self._hook = register_optimizer_step_post_hook(torch.compiler.disable(self._after_step))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def boundary(self) -> bool:
        """A step has ended; returns whether its boundary is aligned."""
        updates = self._marks()
        updated = any(new is not old for new, old in zip(updates, self._updates, strict=True))
        unseen = self._warned and not self.seen
        applied = self._stepped or updated or not self._has_gradients()
        held = any(item.holds_gradients() for item in self._holders)
        self.aligned = unseen or (applied and not held)
        self._stepped, self._updates = False, updates
        return self.aligned

    def kept_waiting(self, step: int) -> None:
        """A snapshot was due at ``step`` and could not be taken; when that goes on for very long, warn, once."""
        if self._waiting is None:
            self._waiting = (step, self._clock())
        steps, seconds = step - self._waiting[0], self._clock() - self._waiting[1]
        if steps >= _LONG_STEPS:  # they may have been seen once, before the graph was made
            self.seen = False
        if not self._warned and (steps >= _LONG_STEPS or seconds >= _LONG_SECONDS):
            self._warned = True
            remedy = (
                "clear the gradients of parameters that are not trained"
                if self.seen
                else "register the optimizer that steps; until one is seen, snapshots are taken without the gradients"
            )
            warnings.warn(
                f"a snapshot has been due for {steps} steps, while gradients accumulate without a step of a registered "
                f"optimizer; a snapshot would lose them: {remedy}",
                stacklevel=2,
            )

    def taken(self) -> None:
        """Nothing is kept waiting any more."""
        self._waiting = None

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        # A wrapper such as accelerate's is what is registered, and the optimizer inside it is what steps.
        self._stepped = (
            self._stepped
            or id(optimizer) in self._known
            or any(known.param_groups is optimizer.param_groups for known in self._optimizers)
        )
        self.seen |= self._stepped

    def _has_gradients(self) -> bool:
        return any(
            parameter.grad is not None
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        )

    def _marks(self) -> list[Any]:
        """Objects that ``update()`` replaces; asking for the scale itself would wait for the device."""
        return [getattr(scaler, "_per_optimizer_states", None) for scaler in self._scalers]
