"""What may be unpickled: what torch's own loader of weights allows, and numpy's arrays and numbers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import serialization

from resilient.errors import CheckpointUnreadable


def _numpy_globals() -> list[Any]:
    """They build arrays and numbers of plain types, and nothing else: an array of objects is pickled otherwise."""
    from numpy._core import multiarray  # noqa: PLC0415  numpy 2

    named: list[Any] = [multiarray._reconstruct, multiarray.scalar]  # noqa: SLF001  what a pickled array names
    kinds = {type(np.dtype(letter)) for letter in np.typecodes["All"] if letter not in "OVmM"}
    if hasattr(serialization, "get_unsafe_globals_in_checkpoint"):  # since torch 2.6, names may be given too
        named = [(item, f"numpy.{core}.multiarray.{item.__name__}") for item in named for core in ("core", "_core")]
    return [*named, np.ndarray, np.dtype, *kinds]


@contextmanager
def _allowed() -> Iterator[None]:
    before = serialization.get_safe_globals()
    serialization.add_safe_globals(_numpy_globals())
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def load(source: Any, where: Path, *, allow_pickle: bool, mapped: bool = False) -> Any:
    """``torch.load`` to the CPU.

    :param source: path, or a stream of bytes.
    :param where: it lies, for messages.
    :param mapped: the tensors are views of the file.
    :raises CheckpointUnreadable: it needs pickle, which is not allowed; or it is damaged.
    """
    try:
        with _allowed():
            return torch.load(source, map_location="cpu", weights_only=not allow_pickle, mmap=mapped)
    except pickle.UnpicklingError as error:
        if allow_pickle:
            raise _damaged(where, error) from error
        raise CheckpointUnreadable(
            f"{where} holds {_wanted(source) or 'something'} that is neither a tensor nor plain data",
            "if you trust whoever wrote it, add --allow-pickle: reading it can run any code",
        ) from error
    except Exception as error:  # a pickle that is damaged can fail in any way
        raise _damaged(where, error) from error


def _wanted(source: Any) -> str:
    """Names of what is in the pickle and not allowed, as far as torch tells."""
    find = getattr(serialization, "get_unsafe_globals_in_checkpoint", None)  # since torch 2.6
    if find is None:
        return ""
    try:
        with _allowed():
            return ", ".join(find(source)[:3])
    except (RuntimeError, ValueError, EOFError, OSError, AttributeError, pickle.UnpicklingError):
        return ""


def _damaged(where: Path, error: Exception) -> CheckpointUnreadable:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointUnreadable(f"{where} cannot be read: {text}", "it is damaged or cut short; use another copy")
