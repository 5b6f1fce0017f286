"""Whether two images hold the same state, bit for bit, whatever their layout."""

from __future__ import annotations

from collections.abc import Collection

from resilient.snapshot.image import HEADER, STATE, Layout, read_state


def first_difference(
    one: memoryview | bytes, other: memoryview | bytes, only: Collection[str] | None = None
) -> str | None:
    """Where two images differ, in words, or None when every tensor and every other value is identical.

    Of two files that lack tensors which another image has, that one has to be compared too.

    :param only: names of the registered objects to compare, such as ``model``; all by default.
    :raises SnapshotCorrupt: one of them is no valid image.
    """
    layouts = Layout.parse(one), Layout.parse(other)
    names = [
        {name for name in layout.tensors if name not in (STATE, HEADER) and _wanted(name, only)} for layout in layouts
    ]
    if names[0] != names[1]:
        return f"only one has {', '.join(sorted(names[0] ^ names[1])[:5])}"
    for name in sorted(names[0]):
        first, second = (layout.tensors[name] for layout in layouts)
        if first.spec != second.spec:
            return f"{name} is {first.spec} in one and {second.spec} in the other"
        if one[first.offset : first.end] != other[second.offset : second.end]:
            return f"{name} differs"
    states = [read_state(image, layout)["objects"] for image, layout in zip((one, other), layouts, strict=True)]
    kept = [{name: state[name] for name in state if _wanted(name, only)} for state in states]
    return _difference(kept[0], kept[1], "state")


def _wanted(name: str, only: Collection[str] | None) -> bool:
    return only is None or any(name == known or name.startswith(f"{known}.") for known in only)


def _difference(one: object, other: object, path: str) -> str | None:
    if type(one) is not type(other):
        return f"{path}: {one!r:.80} and {other!r:.80}"
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{path}: only one has {sorted(map(str, one.keys() ^ other.keys()))[:5]}"
        return next(filter(None, (_difference(one[key], other[key], f"{path}.{key}") for key in one)), None)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next(
            filter(None, (_difference(a, b, f"{path}.{i}") for i, (a, b) in enumerate(zip(one, other, strict=True)))),
            None,
        )
    return None if one == other else f"{path}: {one!r:.80} and {other!r:.80}"
