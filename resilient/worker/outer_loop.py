"""A loop that is somebody else's: what a framework calls in the place of ``for step, batch in run.steps(total)``.

The order is that of the loop that it stands for. All that belongs to a step, its evaluation and its logging too, lies
between :meth:`OuterLoop.begin_step` and :meth:`OuterLoop.end_step`; nothing of the next one does. The best place for
``end_step`` is therefore where the framework is about to fetch the next step's data::

    loop = run.outer_loop(total)
    going = loop.goes_on()               # False: nothing is left to be done, or the run is asked to leave
    while going:
        loop.begin_step()
        for batch in …:                  # of loop.epochs, or of data that is no concern of the run
            …
            loop.consumed()
        optimizer.step()
        run.report(loss=…)
        going = loop.end_step()          # after the last step it is finish() in its place
    loop.finish()                        # does nothing where the run has left
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from resilient.worker.loaders import NoData
from resilient.worker.positions import Data, Opened


class Steps(Protocol):
    """What a run does at the beginning and the end of its steps."""

    def goes_on(self) -> bool: ...

    def begin_step(self, batch: Any) -> int: ...

    def end_step(self, *, last: bool = False) -> None: ...

    def finish(self) -> None: ...

    def leaves_unfinished(self) -> bool: ...


class OuterLoop:
    """As returned by :meth:`resilient.Run.outer_loop`.

    :ivar epochs: the data that was given to :func:`resilient.attach`; an epoch of it each time it is iterated.
    :ivar open: a step has begun and is not complete.
    """

    def __init__(self, steps: Steps, data: Data, opened: Opened) -> None:
        self.open = False
        self._steps = steps
        self._opened = opened
        self.epochs = Epochs(data, opened)
        self._counted = data.batches(opened) if isinstance(data, NoData) else None

    def goes_on(self) -> bool:
        """Whether there is a first step to be done; to be asked once, before it. See :meth:`end_step`."""
        return self._steps.goes_on()

    def begin_step(self, batch: Any = None) -> None:
        """A step begins.

        :param batch: what it works on, where that is known; the hash that a replay is compared by is taken of it.
        """
        if self._counted is not None:
            next(self._counted)
        self._opened()  # the generators are set back now at the latest
        self._steps.begin_step(batch)
        self.open = True

    def consumed(self, batches: int = 1) -> None:
        """So many batches of :attr:`epochs` have been trained on, or are being. A framework may have fetched more."""
        self.epochs.consumed(batches)

    def end_step(self) -> bool:
        """The step is complete: it is reported, and a snapshot is taken if one is due. Returns whether there is to be
        another. If not, and ``run.left_early``, the state is safe, and the framework is to end as it ends when it is
        told to stop; what it does to model and data by then is not kept.
        """
        self.open = False
        self._steps.end_step()
        return self._steps.goes_on()

    def finish(self, *, complete: bool = True) -> None:
        """The loop has ended for good, and the run is finished.

        :param complete: the step that has begun is; if not, the run ends with the one before.
        """
        if self.open and complete:
            self._steps.end_step(last=True)
        self.open = False
        self._steps.finish()

    def leaves_unfinished(self) -> bool:
        """In a step that will not be complete soon, as in its evaluation: whether the run has left now, because it was
        asked to. The step is done again another time. Among several ranks it never is: they leave together, at the
        next :meth:`end_step`.
        """
        left = self._steps.leaves_unfinished()
        self.open = self.open and not left
        return left


class Epochs:
    """Data that is iterated an epoch at a time: first what is left of the one in which the run stands.

    An epoch counts as over when another is begun, as soon as any batch of it has been used, and wherever it was left:
    from ``iter()`` on, not only from the first batch, so that a step that ends in between is followed by the next epoch
    after a resume too.

    :param from_end_to_next: where the run stands at the very end of an epoch, begin with the next one, rather than with
        none of its batches.
    """

    def __init__(self, data: Any, opened: Opened, *, from_end_to_next: bool = True) -> None:
        self._data = data
        self._opened = opened
        self._from_end_to_next = from_end_to_next
        self._used = 0

    def __len__(self) -> int:
        """Batches of a whole epoch.

        :raises TypeError: nobody knows.
        """
        return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        if self._used:
            self._turn()
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        empty = True
        for batch in self._data.epoch(self._opened):
            empty = False
            yield batch
        if empty:
            self._turn()
            if self._from_end_to_next:
                yield from self._data.epoch(self._opened)

    def consumed(self, batches: int) -> None:
        for _ in range(batches):
            self._data.passed()
        self._used += batches

    def _turn(self) -> None:
        self._data.end()
        self._used = 0
