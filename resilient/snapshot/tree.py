"""State trees as typed JSON: what ``state_dict()`` returns, without pickle.

JSON knows neither tuples nor integer keys nor bytes; what it does not know is written as an object with one tag
beginning with ``$``. Tensors and arrays do not go into the JSON: the caller gets them through ``leaf`` with their
path as name, and the JSON keeps a reference. Everything that cannot round-trip exactly is an error that names its path.
"""

from __future__ import annotations

import base64
import json
import math
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from resilient.errors import SnapshotCorrupt, StateError

Encode = Callable[[str, Any], "dict[str, Any] | None"]
"""``(path, value)`` → a tagged object for a value that JSON cannot hold, or None for one it does not know either."""

Decode = Callable[[str, Any], Any]
"""``(tag, payload)`` → the value."""

_MAX_DEPTH = 100
_EXACT = frozenset({bool, int, str})


def dumps(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()


def encode(tree: Any, leaf: Encode, *, path: str = "", allow_pickle: bool = False) -> Any:
    """Turn a state tree into JSON.

    :raises StateError: a value has no exact form; the message names its path.
    """
    return _Encoder(leaf, allow_pickle).encode(tree, path, 0)


class _Encoder:
    def __init__(self, leaf: Encode, allow_pickle: bool) -> None:
        self.leaf = leaf
        self.allow_pickle = allow_pickle

    def encode(self, value: Any, path: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise StateError(f"the state at {path or 'the root'} is nested deeper than {_MAX_DEPTH} levels")
        kind = type(value)
        if kind in _EXACT or value is None:
            return value
        if kind is dict:
            return self._dict(value, path, depth + 1)
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind is list:
            return [self.encode(item, f"{path}.{index}", depth + 1) for index, item in enumerate(value)]
        tagged = self.leaf(path, value)
        return tagged if tagged is not None else self._tagged(value, path, depth)

    def _dict(self, value: dict[Any, Any], path: str, depth: int) -> Any:
        for key in value:
            if type(key) is not str or key.startswith("$"):
                return {"$dict": self._pairs(value, path, depth)}
        prefix = f"{path}." if path else ""
        return {key: self.encode(item, prefix + key, depth) for key, item in value.items()}

    def _pairs(self, value: dict[Any, Any], path: str, depth: int) -> list[Any]:
        return [
            [self.encode(key, f"{path}.<key>", depth + 1), self.encode(item, _join(path, key), depth + 1)]
            for key, item in value.items()
        ]

    def _tagged(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if kind is tuple or (isinstance(value, tuple) and kind.__name__ == "Size"):
            return {"$tuple": [self.encode(item, f"{path}.{index}", depth + 1) for index, item in enumerate(value)]}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if kind is OrderedDict:
            return {"$ordered": self._pairs(value, path, depth)}
        if kind is Counter:
            return {"$counter": self._pairs(value, path, depth)}
        if kind in (set, frozenset):
            items = [self.encode(item, f"{path}.<item>", depth + 1) for item in value]
            return {f"${kind.__name__}": sorted(items, key=json.dumps)}
        if kind is complex:
            return {"$complex": [repr(value.real), repr(value.imag)]}
        return self._pickled(value, path)

    def _pickled(self, value: Any, path: str) -> Any:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self.allow_pickle:
            raise StateError(
                f"the state at {path or 'the root'} is a {kind}, which cannot be captured without pickle",
                "give the object a state_dict() of plain values and tensors, or set snapshot.allow_pickle=true",
            )
        try:
            return {"$pickle": base64.b64encode(pickle.dumps(value)).decode()}
        except Exception as error:
            raise StateError(
                f"the state at {path or 'the root'} is a {kind}, which cannot be pickled: {error}"
            ) from error


def decode(tree: Any, leaf: Decode, *, allow_pickle: bool = False) -> Any:
    """Turn JSON back into the state tree; the inverse of :func:`encode`.

    :raises SnapshotCorrupt: a tag is unknown or its payload malformed.
    :raises StateError: the tree holds a pickle and ``allow_pickle`` is off. Nothing else here can execute code.
    """
    if isinstance(tree, list):
        return [decode(item, leaf, allow_pickle=allow_pickle) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1 or not next(iter(tree)).startswith("$"):
        return {key: decode(item, leaf, allow_pickle=allow_pickle) for key, item in tree.items()}
    tag, payload = next(iter(tree.items()))
    if tag == "$pickle":
        return _unpickle(payload, allow_pickle=allow_pickle)
    try:
        if tag in _SCALARS:
            return _SCALARS[tag](payload)
        if tag in _PAIRS:
            pairs = decode(payload, leaf, allow_pickle=allow_pickle)
            return _PAIRS[tag]({key: value for key, value in pairs})  # noqa: C416  must be pairs, or it is corrupt
        if tag in _SEQUENCES:
            return _SEQUENCES[tag](decode(payload, leaf, allow_pickle=allow_pickle))
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise SnapshotCorrupt(f"the state holds a malformed {tag}: {error}") from error
    return leaf(tag, payload)


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$complex": lambda parts: complex(float(parts[0]), float(parts[1])),
}
_PAIRS: dict[str, Callable[[dict[Any, Any]], Any]] = {"$dict": dict, "$ordered": OrderedDict, "$counter": Counter}
_SEQUENCES: dict[str, Callable[[Any], Any]] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}


def _unpickle(payload: Any, *, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise StateError(
            "the snapshot holds a pickled object, and loading one can execute code",
            "set snapshot.allow_pickle=true if you trust whoever wrote the snapshot",
        )
    return pickle.loads(base64.b64decode(payload))  # noqa: S301  the user's explicit choice


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
