"""The position in the data: counted in batches *consumed*, so that prefetching never skips or repeats any.

A plain ``DataLoader`` is rebuilt around a batch sampler of ours whose order is a function of (seed, epoch) alone and
whose position is one integer, so resuming in the middle of an epoch costs no reading, whatever ``num_workers`` is.
Random augmentation is seeded for each batch from (seed, epoch, position), so it too is the same after a resume, and
does not touch the generators that the model draws from. Anything with ``state_dict`` (torchdata's
``StatefulDataLoader``, streaming sets) is used as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import get_worker_info as current_worker
from torch.utils.data.distributed import DistributedSampler

from resilient.errors import StateError, UsageError
from resilient.worker.rng import PrivateRandom, mix, seed_cpu, seeded


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


class Ticket(NamedTuple):
    """What the sampler hands to the dataset: the seed for this batch, and what to fetch."""

    seed: int
    index: Any


class SeededDataset(Dataset[Any]):
    """Fetches what a ticket names, with the generators seeded by the ticket. Everything else is the user's dataset."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":  # while unpickling, `_inner` is not there yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_inner":
            object.__setattr__(self, name, value)
        else:  # a `worker_init_fn` that configures `get_worker_info().dataset` means the user's dataset
            setattr(self._inner, name, value)

    def __getitem__(self, ticket: Ticket) -> Any:
        return self._seeded(ticket, lambda: self._inner[ticket.index])

    def __getitems__(self, ticket: Ticket) -> Any:
        return self._seeded(ticket, lambda: self._fetch_batch(ticket.index))

    def _fetch_batch(self, indexes: Any) -> Any:
        if callable(getattr(self._inner, "__getitems__", None)):
            return self._inner.__getitems__(indexes)
        return [self._inner[index] for index in indexes]

    @staticmethod
    def _seeded(ticket: Ticket, fetch: Any) -> Any:
        if current_worker() is not None:  # a DataLoader worker's generators serve the dataset alone
            seed_cpu(ticket.seed)
            return fetch()
        with seeded(ticket.seed):
            return fetch()


class PositionedSampler:
    """Yields tickets from any position of an epoch on.

    The order of the plain samplers is computed from (seed, epoch), and resuming is O(1). A ``DistributedSampler`` is
    told the epoch, from which it computes its own part of the order. A sampler of the user's own is told it too if it
    can be, and iterated: each epoch with global generators of its own, seeded for the epoch, and after a resume once
    more from the beginning of the run, which brings whatever generators it has itself to where they were. Indexes only;
    no data is read.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        inner: Any = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
        self._inner = inner
        self._random, self._in_order = _is_plain_random(self._inner), _is_plain_sequential(self._inner)
        self._size = len(loader.dataset) if self._random or self._in_order else 0  # type: ignore[arg-type]
        self._by_epoch = _is_plain_distributed(self._inner)
        self._begun = 0  # epochs for which the user's own sampler has been asked
        generator: torch.Generator | None = inner.sampler.generator if self._random else None
        self.seed = seed if generator is None else mix(seed, generator.initial_seed())
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Ticket]:
        epoch, start = self.epoch, self.start
        known = self._random or self._in_order
        indexes = self._computed(epoch, start) if known else self._asked(epoch, start)
        for position, index in enumerate(indexes, start):
            yield Ticket(mix(self.seed, epoch, position), index)

    def _computed(self, epoch: int, start: int) -> Iterator[Any]:
        batch, keep_short = self._inner.batch_size, not self._inner.drop_last
        order = self._order(epoch)
        stop = self._size if keep_short else self._size - self._size % batch
        for at in range(start * batch, stop, batch):
            yield [int(index) for index in order[at : at + batch]]

    def _asked(self, epoch: int, start: int) -> Iterator[Any]:
        while self._begun < epoch and not self._by_epoch:  # only after a resume
            for _ in self._epoch_of_sampler(self._begun):
                pass
        return islice(self._epoch_of_sampler(epoch), start, None)

    def _epoch_of_sampler(self, epoch: int) -> Iterator[Any]:
        self._begun = epoch + 1
        for sampler in (self._inner, getattr(self._inner, "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        private = PrivateRandom(mix(self.seed, epoch))
        with private.active():
            iterator = iter(self._inner)
        while True:
            with private.active():
                try:
                    index = next(iterator)
                except StopIteration:
                    return
            yield index

    def _order(self, epoch: int) -> Any:
        if self._in_order:
            return range(self._size)
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return torch.randperm(self._size, generator=generator, device="cpu").numpy()


def _is_plain_random(sampler: Any) -> bool:
    return (
        type(sampler) is BatchSampler
        and type(sampler.sampler) is RandomSampler
        and not sampler.sampler.replacement
        and sampler.sampler._num_samples is None  # noqa: SLF001  the public property hides whether it was set
    )


def _is_plain_distributed(sampler: Any) -> bool:
    inner = sampler.sampler if type(sampler) is BatchSampler else sampler
    return type(inner) is DistributedSampler


def _is_plain_sequential(sampler: Any) -> bool:
    return type(sampler) is BatchSampler and type(sampler.sampler) is SequentialSampler


class LoaderData:
    """A map-style ``DataLoader``, rebuilt so that its position is (epoch, batch)."""

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self._sampler = PositionedSampler(loader, seed)
        self._loader = _rebuild(loader, self._sampler)
        self._epoch = 0
        self._batch = 0

    def batches(self, opened: Opened) -> Iterator[Any]:
        while True:
            self._sampler.epoch, self._sampler.start = self._epoch, self._batch
            empty = self._batch == 0
            with torch.device("cpu"):  # where the loader's generator is, whatever the script's default device is
                iterator = iter(self._loader)
            opened()
            for batch in iterator:
                empty = False
                self._batch += 1
                yield batch
            if empty:
                raise UsageError(
                    "the data loader yields no batch at all", "check the dataset's length, batch_size and drop_last"
                )
            self._epoch, self._batch = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "loader", "seed": self._sampler.seed, "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect("loader", state)
        self._sampler.seed = state["seed"]
        self._epoch, self._batch = state["epoch"], state["batch"]


class StatefulData:
    """A loader that keeps its own position, such as torchdata's ``StatefulDataLoader``."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._epoch = 0
        self._resumed = False

    def batches(self, opened: Opened) -> Iterator[Any]:
        while True:
            empty, resumed, self._resumed = True, self._resumed, False
            iterator = iter(self._loader)
            opened()
            for batch in iterator:
                empty = False
                yield batch
            if empty and not resumed:  # resumed at the end of an epoch, there is rightly nothing left of it
                raise UsageError("the data loader yields no batch at all", "check the dataset and its length")
            self._epoch += 1

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "stateful", "epoch": self._epoch, "inner": self._loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect("stateful", state)
        self._epoch, self._resumed = state["epoch"], True
        self._loader.load_state_dict(state["inner"])


class NoData:
    """The script makes its own batches; steps are counted all the same."""

    def batches(self, opened: Opened) -> Iterator[None]:
        opened()
        while True:
            yield None

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "none"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect("none", state)


def positioned(data: Any, seed: int) -> Data:
    """Make ``data`` resumable.

    :raises UsageError: it has no position that could be restored.
    """
    if data is None:
        return NoData()
    if isinstance(data, Stateful):
        return StatefulData(data)
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            raise UsageError(
                f"the position in the IterableDataset {type(data.dataset).__name__} cannot be restored",
                "pass a torchdata StatefulDataLoader, or a map-style dataset",
            )
        if type(data).__iter__ is not DataLoader.__iter__:
            raise UsageError(
                f"{type(data).__name__} iterates in its own way, which would be lost with its position",
                "give it state_dict() and load_state_dict(), or pass the DataLoader inside it",
            )
        return LoaderData(data, seed)
    if isinstance(data, Iterable):
        raise UsageError(
            f"the position in a {type(data).__name__} cannot be restored",
            "pass a DataLoader, or give it state_dict() and load_state_dict()",
        )
    raise UsageError(f"data={data!r} is nothing to iterate over", "pass a DataLoader")


def _rebuild(loader: DataLoader[Any], sampler: PositionedSampler) -> DataLoader[Any]:
    """The same loader around our sampler. Its own generator keeps iterator creation from drawing on the global one."""
    multiprocess: dict[str, Any] = {}
    if loader.num_workers > 0:
        multiprocess = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
        }
    one_by_one = loader.batch_sampler is None
    order: dict[str, Any] = {"batch_size": None, "sampler": sampler} if one_by_one else {"batch_sampler": sampler}
    return DataLoader(
        SeededDataset(loader.dataset),
        **order,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        generator=torch.Generator().manual_seed(sampler.seed),
        **multiprocess,
    )


def _expect(kind: str, state: Mapping[str, Any]) -> None:
    if state.get("kind") != kind:
        raise StateError(
            f"the snapshot's data position is of kind {state.get('kind')!r}, the script's data of kind {kind!r}",
            "keep the data as it was, or begin a new run with another run.id",
        )
