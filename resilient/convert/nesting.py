"""Flat names made a tree again, where whoever wrote them has kept the keys that led to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resilient.convert.checkpoint import Tree


def nested(values: Mapping[str, Any], paths: Mapping[str, Sequence[Any]]) -> Tree:
    """The tree of these values. Numbers among the keys are places in lists.

    ``torch.distributed.checkpoint`` makes text of the numbers that an optimizer's state has for its parameters; they
    become numbers again.
    """
    root: dict[Any, Any] = {}
    for name, value in values.items():
        node = root
        *above, last = paths.get(name, (name,))
        for key in above:
            node = node.setdefault(key, {})
        node[last] = value
    return _numbered(_with_lists(root))


def _with_lists(node: Any) -> Any:
    if type(node) is not dict:
        return node
    made = {key: _with_lists(item) for key, item in node.items()}
    if made and all(type(key) is int for key in made):
        return [made.get(index) for index in range(max(made) + 1)]
    return made


def _numbered(node: Any) -> Any:
    if type(node) is not dict:
        return [_numbered(item) for item in node] if type(node) is list else node
    made = {key: _numbered(item) for key, item in node.items()}
    state = made.get("state")
    if "param_groups" in made and type(state) is dict and all(type(key) is str and key.isdecimal() for key in state):
        made["state"] = {int(key): item for key, item in state.items()}
    return made
