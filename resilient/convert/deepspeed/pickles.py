"""The files in a DeepSpeed checkpoint, which are pickles that name classes of DeepSpeed's.

They are read by torch's loader of weights, which runs no code; the few classes of DeepSpeed's that occur are given to
it as empty ones of the same name. DeepSpeed need not be installed, and is not imported where it is.
"""

from __future__ import annotations

import io
import pickle
import re
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from resilient.errors import CheckpointUnreadable

_SCALERS = "deepspeed.runtime.fp16.loss_scaler"
_KIND = "kind"


def _stub(name: str, module: str, base: type) -> type:
    return type(name, (base,), {"__module__": module})


class _Attributes:
    """An object that has nothing but what was pickled of it."""


LossScaler = _stub("LossScaler", _SCALERS, _Attributes)
DynamicLossScaler = _stub("DynamicLossScaler", _SCALERS, _Attributes)
_STUBS: tuple[type, ...] = (
    LossScaler,
    DynamicLossScaler,
    _stub("ZeroStageEnum", "deepspeed.runtime.zero.config", int),
    # A piece of a parameter, and where it lies in a partition: ``numel`` and ``start``.
    _stub("fragment_address", "deepspeed.utils.tensor_fragment", _Attributes),
    _stub("SubparamShape", "deepspeed.checkpoint.universal_checkpoint", _Attributes),
)
_BY_NAME = {(each.__module__, each.__name__): each for each in _STUBS}


def load(path: Path, *, allow_pickle: bool = False) -> Any:
    """What one file holds; its tensors are views of the file.

    :param allow_pickle: classes of others' are imported, which can run code. DeepSpeed's own still are not.
    :raises CheckpointUnreadable: it is missing or damaged, or names a class that is not known here.
    """
    try:
        with _known_classes():
            if allow_pickle:
                return torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=_trusting())
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointUnreadable(f"{path} is missing", "copy the whole checkpoint, with all ranks' files") from error
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, ImportError, KeyError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointUnreadable(f"{path} cannot be read: {reason}", "it is damaged; use another copy") from error


def plain_scaler(scaler: Any) -> Any:
    """A loss scaler as a dictionary of its attributes."""
    if not isinstance(scaler, (LossScaler, DynamicLossScaler)):
        return None
    return {_KIND: type(scaler).__name__, **vars(scaler)}


def scaler_from(plain: Any) -> Any:
    """The same scaler, to be pickled under DeepSpeed's name; None where there is none of a kind that is known."""
    kind = _BY_NAME.get((_SCALERS, str(plain.get(_KIND)))) if isinstance(plain, dict) else None
    if kind is None:
        return None
    scaler = kind()
    vars(scaler).update({name: value for name, value in plain.items() if name != _KIND})
    return scaler


def dumps(value: Any) -> bytes:
    """What ``torch.save`` writes of small state, in which there may be a scaler of :func:`scaler_from`."""
    into = io.BytesIO()
    torch.save(value, into, pickle_module=types.SimpleNamespace(__name__="pickle", Pickler=_NamingPickler))
    return into.getvalue()


_PythonPickler: Any = pickle._Pickler  # noqa: SLF001  C's cannot be told names


class _NamingPickler(_PythonPickler):  # type: ignore[misc]  # typeshed does not know it
    """Writes the names of DeepSpeed's classes without looking for them: it may not be installed."""

    def save_global(self, value: Any, name: str | None = None) -> None:
        if value not in _STUBS:
            super().save_global(value, name)
            return
        self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__name__}\n".encode())
        self.memoize(value)

    dispatch: ClassVar[Any] = {**_PythonPickler.dispatch, type: save_global}


@contextmanager
def _known_classes() -> Iterator[None]:
    before = get_safe_globals()
    add_safe_globals(list(_STUBS))
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _trusting() -> Any:
    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _BY_NAME.get((module, name)) or super().find_class(module, name)

    load_all: Callable[..., Any] = lambda file, **options: Unpickler(file, **options).load()  # noqa: E731
    return types.SimpleNamespace(__name__="pickle", Unpickler=Unpickler, load=load_all)


def _refused(path: Path, error: Exception) -> CheckpointUnreadable:
    named = re.search(r"(?:GLOBAL|class|function) [`<]?([\w.]+)", str(error))
    if named is None:
        return CheckpointUnreadable(f"{path} is damaged, or no file of DeepSpeed's", "use another copy")
    return CheckpointUnreadable(
        f"{path} holds an object of {named[1].rstrip('.')}, which cannot be read without running its code",
        "if you trust the file, say --allow-pickle",
    )
