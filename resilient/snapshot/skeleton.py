"""State trees taken apart: what rarely changes (nesting, keys, types) on one side, the values on the other.

A training's state tree has the same form at every step, so its JSON differs from the one before only where the values
are. Taking a tree apart and comparing its form with the last one's is much faster than encoding it anew.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient.snapshot import tree

_CONTAINERS = frozenset({dict, OrderedDict, Counter, list, tuple})
_PLAIN_KEYS = frozenset({str, int, bool, bytes, type(None)})  # equal ones of one type are the same JSON
_HOLE = uuid.uuid4().hex  # nothing that a state tree holds by itself


@dataclass
class Parts:
    """A tree taken apart; equal forms are rendered alike.

    :ivar form: type of every node and length of every container, depth first.
    :ivar keys: keys of all dictionaries, in the same order.
    :ivar leaves: everything that is no container, in the same order.
    """

    form: list[Any] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, value: Any) -> Parts:
        """Take ``value`` apart.

        :raises RecursionError: it is nested too deeply, or contains itself.
        """
        parts = cls()
        kind = type(value)
        parts.form.append(kind)
        if kind in _CONTAINERS:
            parts._add(value, kind)
        else:
            parts.leaves.append(value)
        return parts

    def _add(self, container: Any, kind: type) -> None:
        """Runs for every container at every snapshot while the training waits, hence the care for microseconds."""
        if kind is list or kind is tuple:
            items = container
        else:
            self.keys.extend(container)
            items = container.values()
        kinds = list(map(type, items))
        self.form.append(len(kinds))
        self.form.extend(kinds)
        if _CONTAINERS.isdisjoint(kinds):
            self.leaves.extend(items)
            return
        for item, item_kind in zip(items, kinds, strict=True):
            if item_kind in _CONTAINERS:
                self._add(item, item_kind)
            else:
                self.leaves.append(item)


class Skeleton:
    """The JSON of a tree without its leaves.

    :ivar paths: of every leaf.
    :ivar texts: the JSON before the first leaf, between each two, and after the last.
    """

    def __init__(self, parts: Parts, paths: list[str], texts: list[str]) -> None:
        self.paths = paths
        self.texts = texts
        self._form = parts.form
        self._keys = parts.keys
        self._key_types = list(map(type, parts.keys))
        self._comparable = _PLAIN_KEYS.issuperset(self._key_types)

    @classmethod
    def of(cls, value: Mapping[str, Any], parts: Parts, leaf: tree.Encode, *, allow_pickle: bool) -> Skeleton:
        """The skeleton of a dictionary, whose items each have their key as path.

        :param leaf: as for :func:`resilient.snapshot.tree.encode`; called for keys that JSON cannot hold.
        :raises StateError: a key has no exact form, or the nesting is too deep.
        """
        paths: list[str] = []

        def hole(path: str, value: Any) -> Any:
            if type(value) is not _Hole:
                return leaf(path, value)
            paths.append(path)
            return _HOLE

        encoded = {
            key: tree.encode(_hollow(item), hole, path=key, allow_pickle=allow_pickle) for key, item in value.items()
        }
        return cls(parts, paths, tree.dumps(encoded).decode().split(json.dumps(_HOLE)))

    def fits(self, parts: Parts) -> bool:
        """Whether a tree with these parts has this very skeleton."""
        return (
            self._comparable
            and self._form == parts.form
            and self._key_types == list(map(type, parts.keys))
            and self._keys == parts.keys
        )


class _Hole:
    """Stands where a leaf was."""


def _hollow(value: Any) -> Any:
    """The same containers, with a hole for each leaf."""
    kind = type(value)
    if kind not in _CONTAINERS:
        return _Hole()
    if kind is list or kind is tuple:
        return kind(map(_hollow, value))
    hollow = kind()
    for key, item in value.items():
        hollow[key] = _hollow(item)
    return hollow
