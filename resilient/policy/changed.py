"""A copy of a frozen state with a few fields changed, for the rules that run once for each rank.

``dataclasses.replace`` calls the constructor with every field, which for a state of thirty fields is most of what such
a rule costs. This copies the fields as they are. It checks nothing, so it is for classes without a ``__post_init__``,
whose fields stand in the instance's dictionary.
"""

from __future__ import annotations

from typing import Any, TypeVar

_State = TypeVar("_State")


def changed(state: _State, **fields: Any) -> _State:
    """``state`` with other values in ``fields``, which must be fields that it has."""
    after = object.__new__(type(state))
    values = after.__dict__
    values.update(state.__dict__)
    values.update(fields)
    return after
