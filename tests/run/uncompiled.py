"""torch without its compiler, for scripts that compile nothing.

An optimizer imports ``torch._dynamo`` in its first step, only to tell it what not to compile. That takes nearly as long
as importing torch, in every one of the many runs of these tests. Here it is imported when anything more is asked of it.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import torch

_NAME = "torch._dynamo"


class _Compiler(types.ModuleType):
    """What stands for the compiler while nothing is compiled."""

    def graph_break(self, msg: str = "") -> None:
        """Nothing is traced."""

    def disable(self, fn: Any, *_settings: Any, **_more: Any) -> Any:
        """Nothing would be compiled anyway."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # as those ask who look through all modules
            raise AttributeError(name)
        if sys.modules[_NAME] is self:
            del sys.modules[_NAME]
        return getattr(importlib.import_module(_NAME), name)


def put_the_compiler_off() -> None:
    """Import it when it is used; unless it is there already."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = vars(torch)["_dynamo"] = _Compiler(_NAME)
