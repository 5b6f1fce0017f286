"""Streams of Hugging Face ``datasets``, where their own state is not enough.

* A stream that has been given a state begins every later epoch there too. In this process it is sent back to the
  beginning when an epoch has ended. In workers that outlive an epoch it cannot be, and these are refused; others are
  made anew.
* The samples in a buffer for shuffling are in no state, and would be left out by a resume. The library says so, and
  only when it has happened.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from resilient.errors import UsageError

_BEFORE_ALL_EPOCHS = {"epoch": -1, "examples_iterable": {}}
"""A state that a stream passes over: it goes by one of its own epoch alone."""


def stream_in(data: Any) -> Any | None:
    """The stream that ``data`` is, or that a loader reads; None where there is none."""
    kind = getattr(sys.modules.get("datasets"), "IterableDataset", None)
    candidates = (data, getattr(data, "dataset", None))
    return next((each for each in candidates if kind is not None and isinstance(each, kind)), None)


def require_exact(data: Any) -> None:
    """:raises UsageError: it could not go on exactly where it was."""
    stream = stream_in(data)
    if stream is None:
        return
    lost = max(
        (each.buffer_size for each in _parts(getattr(stream, "_ex_iterable", None)) if hasattr(each, "buffer_size")),
        default=1,
    )
    if lost > 1:
        raise UsageError(
            f"the stream is shuffled in a buffer of {lost} samples, which would be lost when the run resumes",
            "shuffle its shards alone, with shuffle(buffer_size=1), or the rows before they become a stream",
        )
    if getattr(data, "persistent_workers", False):
        raise UsageError(
            "a stream of datasets in persistent workers would begin each epoch where the run has resumed",
            "make the loader with persistent_workers=False",
        )


def send_back(data: Any) -> None:
    """Have the next epoch begin at the beginning."""
    stream = stream_in(data)
    if stream is not None:
        stream.load_state_dict(dict(_BEFORE_ALL_EPOCHS))


def _parts(iterable: Any) -> Iterator[Any]:
    """What a stream is put together from."""
    yield iterable
    inner = getattr(iterable, "ex_iterable", None)
    for each in [*getattr(iterable, "ex_iterables", ()), *([] if inner is None else [inner])]:
        yield from _parts(each)
