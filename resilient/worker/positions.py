"""What a source of batches has to know of its place, and how data that a plan names is left out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from resilient.errors import UsageError
from resilient.policy.lineage import Skip
from resilient.worker.skips import Place, Resolved, SkipSet


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be taken and given back."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


Opened = Callable[[], None]
"""Called each time an iterator over the data exists and nothing has been fetched from it."""


class Data(Protocol):
    """A source of batches that knows where it is."""

    def batches(self, opened: Opened) -> Iterator[Any]:
        """Batches from the current position on, over epoch ends, for ever."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Positioned(Data, Protocol):
    """One of which parts can be left out.

    :ivar skips: what is left out. It may be changed until the first batch is asked for.
    """

    skips: SkipSet

    def resumed(self, step: int) -> None:
        """The state was that after ``step``: snapshots of older releases do not say how many batches there had been."""
        ...

    def after(self, batches: int) -> Place:
        """The position after so many further batches, which are not read.

        :raises UsageError: there are none.
        """
        ...


def leave_out(data: Positioned, skips: Sequence[Skip], steps: Sequence[tuple[int, int]], step: int) -> tuple[Skip, ...]:
    """Leave out what a plan says, beside what the restored state does; returns what each of ``steps`` turned out to be.

    :param steps: first and last step whose data is to be left out too, counted on from ``step``: each range as steps
        are with the ones before it left out, and without those after it.
    :param step: after which ``data`` stands.
    """
    known = [found for found in data.skips.resolved if found.skip not in skips]
    data.skips = replace(data.skips.joined(skips), resolved=())
    for first, last in steps:
        # Found out by the round that took this snapshot, and the supervisor never heard of it?
        found = next((old for old in known if old.steps == (first, last)), None)
        if found is None:
            start, end = (data.after(max(0, past - step)) for past in (first - 1, last))
            found = Resolved((first, last), Skip(start, end, data.skips.unit))
        else:
            known.remove(found)
        data.skips = replace(data.skips.joined([found.skip]), resolved=(*data.skips.resolved, found))
    return tuple(found.skip for found in data.skips.resolved)


def no_batch(what: str = "check the dataset's length, batch_size and drop_last") -> UsageError:
    """The data has none, however often one begins anew."""
    return UsageError("the data loader yields no batch at all", what)
