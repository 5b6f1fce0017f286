"""The order of a loader's batches, from any position of an epoch on, with what is left out taken out of it.

A plain ``DataLoader`` goes through an order that is a function of (seed, epoch) alone, so a position in it is one
number, resuming costs no reading, and what is left out is taken out of the order *before* it is cut into batches and
dealt to ranks: it is the same data at any world size and batch size. A sampler of the user's own is asked for its
batches and knows its place by their count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from resilient.errors import StateError
from resilient.worker.positions import no_batch
from resilient.worker.rng import PrivateRandom, mix
from resilient.worker.skips import ENDLESS, Kept, Place, SkipSet


class Ticket(NamedTuple):
    """What the sampler hands to the dataset: the seed for this batch, and what to fetch."""

    seed: int
    index: Any


class Course(Protocol):
    """The way through the data: where it stands, counted in batches *consumed*, and what is handed out from there on.

    For each epoch :meth:`begin` is called, then :meth:`tickets`, whose iterator may run ahead of the batches that are
    consumed; :meth:`passed` for each of these; and :meth:`end` when there are no more.
    """

    seed: int
    skips: SkipSet

    def begin(self) -> None: ...

    def tickets(self) -> Iterator[Ticket]: ...

    def passed(self) -> None: ...

    def end(self) -> None:
        """The epoch is over. UsageError when it has no batch, and no later one will."""
        ...

    def resumed(self, step: int) -> None: ...

    def after(self, batches: int) -> Place: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def course_of(loader: DataLoader[Any], seed: int) -> Course:
    """The way of a map-style loader."""
    sampler: Any = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    deal = _plain_deal(sampler)
    return AskedCourse(sampler, seed) if deal is None else PlainCourse(sampler, deal, seed)


class Deal(NamedTuple):
    """How a plain loader deals its samples out.

    :ivar sampler: torch's own, of samples.
    :ivar batch: samples of one batch of one rank; 0 where samples come one by one.
    :ivar drop_short: a last batch that is not full is left out.
    :ivar drop_uneven: of samples that are not enough for all ranks, rather than given out twice.
    """

    sampler: Any
    size: int
    batch: int = 0
    drop_short: bool = False
    ranks: int = 1
    rank: int = 0
    drop_uneven: bool = False


def _plain_deal(sampler: Any) -> Deal | None:
    """None where the order is not a function of seed and epoch that is known here."""
    batched = type(sampler) is BatchSampler
    inner = sampler.sampler if batched else sampler
    batch, drop = (sampler.batch_size, sampler.drop_last) if batched else (0, False)
    if type(inner) is DistributedSampler:
        return Deal(inner, len(inner.dataset), batch, drop, inner.num_replicas, inner.rank, inner.drop_last)  # type: ignore[arg-type]
    plain_random = (
        type(inner) is RandomSampler and not inner.replacement and inner._num_samples is None  # noqa: SLF001  the public property hides whether it was set
    )
    if batched and (plain_random or type(inner) is SequentialSampler):
        return Deal(inner, len(inner.data_source), batch, drop)
    return None


class PlainCourse:
    """An order that is known: its positions are samples of the epoch, over all ranks."""

    def __init__(self, sampler: Any, deal: Deal, seed: int) -> None:
        self._sampler = sampler
        self._deal = deal
        generator: torch.Generator | None = getattr(deal.sampler, "generator", None)
        self.seed = seed if generator is None else mix(seed, generator.initial_seed())
        self.skips = SkipSet("samples")
        self._epoch = self._offset = 0
        self._round = max(1, deal.batch) * deal.ranks  # samples of one batch of all ranks
        self._kept, self._begun_at, self._passed = Kept(0, 0, ()), 0, 0

    def begin(self) -> None:
        self._epoch, self._offset = self.skips.leave((self._epoch, self._offset))
        self._begun_at, self._passed = self._offset, 0
        self._kept = self._rest(self._epoch, self._offset)

    def tickets(self) -> Iterator[Ticket]:
        epoch, kept, deal = self._epoch, self._kept, self._deal
        order = self._order(epoch)
        real = min(self._dealt(kept), kept.size)
        for start in range(0, self._batches(kept) * self._round, self._round):
            own = kept.pick(start + deal.rank, min(start + self._round, real), deal.ranks)
            index = _taken(order, own) + self._padding(order, start, kept.size)
            seed = mix(self.seed, epoch, kept.at(start) // self._round)  # a batch has the same, whatever is left out
            yield Ticket(seed, index if deal.batch else index[0])

    def passed(self) -> None:
        self._passed += 1
        self._offset = self._end_of(self._kept, self._passed)

    def end(self) -> None:
        if not self._passed and not self._begun_at and not self.skips.touches(self._epoch):
            raise no_batch()
        self._epoch, self._offset = self._epoch + 1, 0

    def resumed(self, step: int) -> None:
        """The position says all."""

    def after(self, batches: int) -> Place:
        epoch, offset = self._epoch, self._offset
        while batches:
            epoch, offset = self.skips.leave((epoch, offset))
            kept = self._rest(epoch, offset)
            there = self._batches(kept)
            if batches <= there:
                return epoch, self._end_of(kept, batches)
            if not there and not offset and not self.skips.touches(epoch):
                raise no_batch()
            batches -= there
            epoch, offset = epoch + 1, 0
        return epoch, offset

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "epoch": self._epoch, "offset": self._offset, **self.skips.to_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect_unit("samples", state, "count")
        self.seed, self._epoch = state["seed"], state["epoch"]
        if "offset" in state:
            self._offset = state["offset"]
        else:  # of an older release, which counted batches, and all were of the sizes that they have now
            self._offset = min(state["batch"] * self._round, self._deal.size)
        self.skips = self.skips.of_state(state)

    def _rest(self, epoch: int, offset: int) -> Kept:
        return self.skips.kept(epoch, offset, self._deal.size)

    def _dealt(self, kept: Kept) -> int:
        """Samples that are dealt out, a multiple of the number of ranks."""
        over = kept.size % self._deal.ranks
        if not over:
            return kept.size
        return kept.size - over if self._deal.drop_uneven else kept.size - over + self._deal.ranks

    def _batches(self, kept: Kept) -> int:
        """How many batches each rank gets."""
        dealt = self._dealt(kept)
        return dealt // self._round if self._deal.drop_short else -(-dealt // self._round)

    def _end_of(self, kept: Kept, batches: int) -> int:
        """The offset after so many batches."""
        samples = min(batches * self._round, self._dealt(kept), kept.size)
        return kept.at(samples - 1) + 1

    def _padding(self, order: Any, start: int, size: int) -> list[int]:
        """Samples from the epoch's beginning that are given out again where the last ones are not enough for all."""
        deal, missing = self._deal, -size % self._deal.ranks
        own = size + (deal.rank - size) % deal.ranks  # this rank's place among the padded ones
        if deal.drop_uneven or own >= size + missing or not start <= own < start + self._round:
            return []
        whole = self.skips.kept(self._epoch, 0, deal.size)
        return _taken(order, [whole.at((own - size) % whole.size)])

    def _order(self, epoch: int) -> Any:
        """All samples of an epoch: a ``DistributedSampler``'s as torch puts them, a plain shuffle by a seed of ours."""
        deal = self._deal
        distributed = isinstance(deal.sampler, DistributedSampler)
        if distributed:
            deal.sampler.set_epoch(epoch)  # for the script to see
        if not (deal.sampler.shuffle if distributed else isinstance(deal.sampler, RandomSampler)):
            return range(deal.size)
        seed = deal.sampler.seed + epoch if distributed else mix(self.seed, epoch)
        return torch.randperm(deal.size, generator=torch.Generator().manual_seed(seed), device="cpu").numpy()


def _taken(order: Any, places: Sequence[int]) -> list[int]:
    if isinstance(order, range):
        return [order[place] for place in places]
    at = slice(places.start, places.stop, places.step) if isinstance(places, range) else places
    found: list[int] = order[at].tolist()
    return found


class AskedCourse:
    """A sampler of the user's own: its positions are batches from the beginning of the run, of one rank.

    It is told the epoch if it can be, and iterated: each epoch with global generators of its own, seeded for the epoch,
    and after a resume once more from the beginning of the run, which brings whatever generators it has itself to where
    they were. Indexes only; no data is read.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self.seed = seed
        self.skips = SkipSet("batches")
        self._epoch = self._batch = self._count = 0
        self._kept, self._begun_at, self._taken, self._asked = Kept(0, 0, ()), (0, 0), 0, 0
        self._begun = 0  # epochs for which the sampler has been asked

    def begin(self) -> None:
        self._begun_at, self._taken, self._asked = (self._batch, self._count), 0, 0
        self._kept = self.skips.kept(0, self._count, ENDLESS)

    def tickets(self) -> Iterator[Ticket]:
        epoch, (batch, count) = self._epoch, self._begun_at
        while self._begun < epoch:  # only after a resume
            for _ in self._epoch_of_sampler(self._begun):
                pass
        for place, index in enumerate(islice(self._epoch_of_sampler(epoch), batch, None), count):
            self._asked += 1
            if self.skips.leave((0, place)) == (0, place):
                yield Ticket(mix(self.seed, epoch, batch + place - count), index)

    def passed(self) -> None:
        batch, count = self._begun_at
        self._count = self._kept.at(self._taken) + 1
        self._batch = batch + self._count - count
        self._taken += 1

    def end(self) -> None:
        batch, count = self._begun_at
        if not batch and not self._asked:
            raise no_batch()
        self._epoch, self._batch, self._count = self._epoch + 1, 0, count + self._asked

    def resumed(self, step: int) -> None:
        if self._count < 0:
            self._count = step

    def after(self, batches: int) -> Place:
        return (0, self.skips.kept(0, self._count, ENDLESS).at(batches - 1) + 1) if batches else (0, self._count)

    def state_dict(self) -> dict[str, Any]:
        place = {"seed": self.seed, "epoch": self._epoch, "batch": self._batch, "count": self._count}
        return {**place, **self.skips.to_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect_unit("batches", state, "offset")
        self.seed, self._epoch, self._batch = state["seed"], state["epoch"], state["batch"]
        self._count = state.get("count", -1)  # of an older release: until it is said
        self.skips = self.skips.of_state(state)

    def _epoch_of_sampler(self, epoch: int) -> Iterator[Any]:
        self._begun = epoch + 1
        for sampler in (self._sampler, getattr(self._sampler, "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        private = PrivateRandom(mix(self.seed, epoch))
        with private.active():
            iterator = iter(self._sampler)
        while True:
            with private.active():
                try:
                    index = next(iterator)
                except StopIteration:
                    return
            yield index


def _expect_unit(unit: str, state: Mapping[str, Any], foreign: str) -> None:
    if foreign in state:
        raise StateError(
            f"the loader's position is counted in {unit} now, the snapshot's is not: its sampler is of another kind",
            "keep the sampler as it was, or begin a new run with another run.id",
        )
