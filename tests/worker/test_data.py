"""The position in the data: whatever the loader, a resumed run sees exactly the batches that are left."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from resilient.errors import StateError, UsageError
from resilient.policy.lineage import Skip
from resilient.worker.data import positioned
from resilient.worker.loaders import LoaderData, NoData, StatefulData
from resilient.worker.rng import GlobalRandomState, seed_cpu
from resilient.worker.seeding import SeededDataset

SIZE = 10
Loader = Callable[[int], Any]
"""Makes a loader with so many worker processes."""


class Numbers(Dataset[int]):
    """Sample *i* is the number *i*."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return index


class Augmented(Numbers):
    """Every sample is drawn anew from all three generators."""

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        drawn = [random.random(), float(np.random.rand()), torch.rand(()).item()]
        return torch.tensor([float(index), *drawn], dtype=torch.float64)


class Backwards(Sampler[int]):
    """A sampler of the user's own, always in the same order."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(range(SIZE - 1, -1, -1))


class Shuffled(Sampler[int]):
    """A sampler of the user's own that draws its order from a global generator when it is begun."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(SIZE), SIZE))


class ByEpoch(Sampler[int]):
    """A sampler in the manner of ``DistributedSampler``: its order is a function of the epoch it is told."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter([(index + 3 * self.epoch) % SIZE for index in range(SIZE)])


class Lazy(Sampler[int]):
    """A sampler of the user's own that draws each index when it is asked for it."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        for _ in range(SIZE):
            yield random.randrange(SIZE)


class Uneven(Sampler[list[int]]):
    """A batch sampler of the user's own: batches of growing size, shuffled."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(SIZE).tolist()
        yield from (order[0:1], order[1:3], order[3:6], order[6:10])


class UnevenByEpoch(Uneven):
    """The same, told of the epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([self.epoch], [1, 2], [3, 4, 5], [6, 7, 8, 9])


class Counting:
    """A loader that keeps its own position, as torchdata's does."""

    def __init__(self) -> None:
        self.position = 0
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        while self.position < SIZE:
            self.position += 1
            yield 100 * self.epoch + self.position - 1
        self.position, self.epoch = 0, self.epoch + 1

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.position, self.epoch = state["position"], state["epoch"]


def nothing() -> None:
    pass


def drawn_by_collate(samples: list[int]) -> list[Any]:
    return [samples, random.random(), float(np.random.rand()), torch.rand(()).item()]


def plain(batch: Any) -> Any:
    return batch.tolist() if isinstance(batch, torch.Tensor) else batch


def consume(
    loader: Any, count: int, state: Mapping[str, Any] | None = None, *, seed: int = 5
) -> tuple[list[Any], dict[str, Any]]:
    """Batches from ``state`` on, and the state after the last of them, as one life of a run goes."""
    data = positioned(loader, seed)
    if state is not None:
        data.load_state_dict(json.loads(json.dumps(state)))
    stream = data.batches(nothing)
    batches = [plain(batch) for batch in islice(stream, count)]
    after = data.state_dict()
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    return batches, after


def interrupted(make: Callable[[], Any], total: int, *lives: int) -> list[Any]:
    """``total`` batches in several lives, each in a process that has drawn other numbers and has another seed."""
    batches: list[Any] = []
    state = None
    for number, count in enumerate([*lives, total - sum(lives)]):
        seed_cpu(1000 + number)
        more, state = consume(make(), count, state, seed=5 if state is None else 99 + number)
        batches += more
    return batches


# --- the position

LOADERS: dict[str, Loader] = {
    "in order": lambda workers: DataLoader(Numbers(), batch_size=3, num_workers=workers),
    "shuffled": lambda workers: DataLoader(Numbers(), batch_size=3, shuffle=True, num_workers=workers),
    "drop_last": lambda workers: DataLoader(Numbers(), batch_size=3, shuffle=True, drop_last=True, num_workers=workers),
    "one by one": lambda workers: DataLoader(Numbers(), batch_size=None, num_workers=workers),
    "one by one, shuffled": lambda workers: DataLoader(Numbers(), batch_size=None, shuffle=True, num_workers=workers),
    "own generator": lambda workers: DataLoader(
        Numbers(), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(3), num_workers=workers
    ),
    "own sampler": lambda workers: DataLoader(Numbers(), batch_size=3, sampler=Backwards(), num_workers=workers),
    "own random sampler": lambda workers: DataLoader(Numbers(), batch_size=3, sampler=Shuffled(), num_workers=workers),
    "own sampler, one by one": lambda workers: DataLoader(
        Numbers(), batch_size=None, sampler=ByEpoch(), num_workers=workers
    ),
    "weighted": lambda workers: DataLoader(
        Numbers(), batch_size=3, sampler=WeightedRandomSampler([1.0] * SIZE, SIZE), num_workers=workers
    ),
    "with replacement": lambda workers: DataLoader(
        Numbers(),
        batch_size=3,
        sampler=RandomSampler(Numbers(), replacement=True, num_samples=100),
        num_workers=workers,
    ),
    "weighted, own generator": lambda workers: DataLoader(
        Numbers(),
        batch_size=3,
        sampler=WeightedRandomSampler([1.0] * SIZE, SIZE, generator=torch.Generator().manual_seed(3)),
        num_workers=workers,
    ),
    "with replacement, own generator": lambda workers: DataLoader(
        Numbers(),
        batch_size=3,
        sampler=RandomSampler(Numbers(), replacement=True, generator=torch.Generator().manual_seed(3)),
        num_workers=workers,
    ),
    "one by one, own generator": lambda workers: DataLoader(
        Numbers(),
        batch_size=None,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
        num_workers=workers,
    ),
    "lazy sampler": lambda workers: DataLoader(Numbers(), batch_size=3, sampler=Lazy(), num_workers=workers),
    "part of an epoch": lambda workers: DataLoader(
        Numbers(), batch_size=3, sampler=RandomSampler(Numbers(), num_samples=7), num_workers=workers
    ),
    "own batch sampler": lambda workers: DataLoader(Numbers(), batch_sampler=Uneven(), num_workers=workers),
    "own batch sampler by epoch": lambda workers: DataLoader(
        Numbers(), batch_sampler=UnevenByEpoch(), num_workers=workers
    ),
    "torch's batch sampler": lambda workers: DataLoader(
        Numbers(),
        batch_sampler=BatchSampler(RandomSampler(Numbers()), batch_size=4, drop_last=False),
        num_workers=workers,
    ),
    "augmented": lambda workers: DataLoader(Augmented(), batch_size=3, shuffle=True, num_workers=workers),
}
LIVES = [(2, 3), (4, 4), (2, 6), (6, 2), (4, 1), (3, 3)]


@pytest.mark.parametrize("lives", LIVES, ids=str)
@pytest.mark.parametrize("name", LOADERS)
def test_a_run_resumed_twice_sees_exactly_the_batches_of_one_that_was_not(name: str, lives: tuple[int, ...]) -> None:
    """Ends of epochs lie after 3 or 4 batches, or 10; the lives end before, at and after them."""
    expected, _ = consume(LOADERS[name](0), 13)
    assert interrupted(lambda: LOADERS[name](0), 13, *lives) == expected


@pytest.mark.parametrize("name", ["shuffled", "augmented", "own batch sampler"])
def test_prefetching_processes_skip_and_repeat_nothing(name: str) -> None:
    expected, _ = consume(LOADERS[name](0), 11)
    assert interrupted(lambda: LOADERS[name](2), 11, 2, 6) == expected


def test_an_interruption_at_the_end_of_an_epoch_is_no_exception_for_processes() -> None:
    expected, _ = consume(LOADERS["augmented"](0), 10)
    assert interrupted(lambda: LOADERS["augmented"](2), 10, 4, 4) == expected


def test_processes_that_persist_over_epochs_see_the_same_batches() -> None:
    def make() -> DataLoader[Any]:
        return DataLoader(Augmented(), batch_size=3, shuffle=True, num_workers=2, persistent_workers=True)

    expected, _ = consume(LOADERS["augmented"](0), 11)
    assert interrupted(make, 11, 5) == expected


def test_batches_that_were_fetched_ahead_and_not_consumed_do_not_count() -> None:
    data = positioned(LOADERS["shuffled"](2), 5)
    stream = data.batches(nothing)
    assert data.state_dict() == {"kind": "loader", "seed": 5, "epoch": 0, "offset": 0}
    for batch in range(1, 4):
        next(stream)
        assert data.state_dict() == {"kind": "loader", "seed": 5, "epoch": 0, "offset": min(3 * batch, SIZE)}
    stream.close()  # type: ignore[attr-defined]  # it is a generator


@pytest.mark.parametrize("name", ["in order", "shuffled", "one by one, shuffled", "own random sampler"])
def test_every_epoch_has_every_sample_once(name: str) -> None:
    count = 10 if "one by one" in name else 4
    batches, _ = consume(LOADERS[name](0), 3 * count)
    for epoch in range(3):
        part = batches[epoch * count : (epoch + 1) * count]
        seen = part if "one by one" in name else [sample for batch in part for sample in batch]
        assert sorted(seen) == list(range(SIZE))


@pytest.mark.parametrize("name", ["shuffled", "one by one, shuffled", "own random sampler", "own batch sampler"])
def test_every_epoch_has_an_order_of_its_own_and_so_has_every_seed(name: str) -> None:
    count = 10 if "one by one" in name else 4
    batches, _ = consume(LOADERS[name](0), 3 * count)
    epochs = [batches[:count], batches[count : 2 * count], batches[2 * count :]]
    other, _ = consume(LOADERS[name](0), count, seed=6)
    assert len({json.dumps(order) for order in [*epochs, other]}) == 4


def test_an_order_that_is_a_function_of_the_epoch_is_told_the_epoch() -> None:
    batches, _ = consume(LOADERS["own sampler, one by one"](0), 3 * SIZE)
    assert [batches[0], batches[SIZE], batches[2 * SIZE]] == [0, 3, 6]
    batches, _ = consume(DataLoader(Numbers(), batch_size=SIZE, sampler=ByEpoch()), 3)
    assert [batch[0] for batch in batches] == [0, 3, 6]
    batches, _ = consume(LOADERS["own batch sampler by epoch"](0), 9)
    assert [batches[0], batches[4], batches[8]] == [[0], [1], [2]]


def test_the_last_short_batch_is_dropped_only_if_it_is_to_be() -> None:
    assert [len(batch) for batch in consume(LOADERS["shuffled"](0), 8)[0]] == [3, 3, 3, 1] * 2
    assert [len(batch) for batch in consume(LOADERS["drop_last"](0), 6)[0]] == [3] * 6


def test_a_random_sampler_that_is_not_a_plain_permutation_is_asked_for_its_order() -> None:
    part, _ = consume(LOADERS["part of an epoch"](0), 6)
    assert [len(batch) for batch in part] == [3, 3, 1] * 2
    repeated, _ = consume(DataLoader(Numbers(), batch_size=SIZE, sampler=RandomSampler(Numbers(), replacement=True)), 3)
    assert any(len(set(batch)) < SIZE for batch in repeated)


def test_resuming_far_into_an_epoch_reads_no_sample_that_is_not_wanted() -> None:
    read: list[int] = []

    class Watched(Numbers):
        def __getitem__(self, index: int) -> int:
            read.append(index)
            return index

    state = {"kind": "loader", "seed": 5, "epoch": 7, "batch": 300}
    batches, _ = consume(DataLoader(Watched(1000), batch_size=3, shuffle=True), 2, state)
    assert read == [sample for batch in batches for sample in batch]


# --- augmentation


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_does_not_touch_the_generators_of_the_main_process(workers: int) -> None:
    seed_cpu(7)
    expected = (random.random(), np.random.rand(), torch.rand(2).tolist())
    seed_cpu(7)
    consume(LOADERS["augmented"](workers), 6)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == expected


@pytest.mark.parametrize("name", ["own random sampler", "lazy sampler", "weighted", "own batch sampler"])
def test_nor_does_the_order_of_a_sampler_that_draws_from_them(name: str) -> None:
    seed_cpu(7)
    expected = (random.random(), np.random.rand(), torch.rand(2).tolist())
    seed_cpu(7)
    consume(LOADERS[name](0), 6)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == expected


def test_augmentation_is_new_for_every_batch_and_every_epoch() -> None:
    batches, _ = consume(LOADERS["augmented"](0), 8)
    drawn = [tuple(sample[1:]) for batch in batches for sample in batch]
    assert len(set(drawn)) == len(drawn) == 2 * SIZE


def test_what_collate_draws_in_a_process_is_the_same_after_a_resume() -> None:
    def make() -> DataLoader[Any]:
        return DataLoader(Numbers(), batch_size=3, num_workers=2, collate_fn=drawn_by_collate)

    expected, _ = consume(make(), 6)
    assert interrupted(make, 6, 3) == expected
    assert len({batch[1] for batch in expected}) == 6


# --- the loader stays the user's


def _init(worker: int) -> None:
    del worker


def test_the_loader_is_rebuilt_with_all_its_settings() -> None:
    loader = DataLoader(
        Numbers(),
        batch_size=3,
        num_workers=2,
        collate_fn=drawn_by_collate,
        worker_init_fn=_init,
        prefetch_factor=5,
        persistent_workers=True,
        timeout=30,
        multiprocessing_context="fork",
    )
    data = positioned(loader, 5)
    assert isinstance(data, LoaderData)
    rebuilt = data._loader
    for name in ("num_workers", "collate_fn", "worker_init_fn", "prefetch_factor", "persistent_workers", "timeout"):
        assert getattr(rebuilt, name) == getattr(loader, name)
    assert rebuilt.multiprocessing_context.get_start_method() == "fork"
    assert len(rebuilt) == len(loader)


def test_a_dataset_that_fetches_whole_batches_goes_on_doing_so() -> None:
    class Batched(Numbers):
        def __getitems__(self, indexes: list[int]) -> list[int]:
            return [1000 + index for index in indexes]

    assert consume(DataLoader(Batched(), batch_size=4), 2)[0] == [[1000, 1001, 1002, 1003], [1004, 1005, 1006, 1007]]


def test_the_dataset_in_the_worker_process_is_still_the_users() -> None:
    class Named(Numbers):
        name = "mine"

    wrapped = SeededDataset(Named())
    assert len(wrapped) == SIZE
    assert wrapped.name == "mine"
    with pytest.raises(AttributeError):
        _ = wrapped.unknown


def test_a_wrapped_dataset_can_be_sent_to_a_spawned_process() -> None:
    copy = pickle.loads(pickle.dumps(SeededDataset(Numbers(4))))  # noqa: S301  made here
    assert len(copy) == 4


def test_it_is_said_when_an_iterator_exists_and_nothing_has_been_fetched() -> None:
    """The generators are set back at that moment: making an iterator may draw from them, as may fetching."""
    happened: list[str] = []

    class Watched(Numbers):
        def __getitem__(self, index: int) -> int:
            happened.append("fetched")
            return index

    stream = positioned(DataLoader(Watched(4), batch_size=2), 5).batches(lambda: happened.append("opened"))
    for _ in range(3):
        next(stream)
    assert happened == ["opened", *["fetched"] * 4, "opened", *["fetched"] * 2]


# --- loaders that keep their own position


@pytest.mark.parametrize("lives", [(3, 4), (3, 10), (5, 15), (12, 4), (7, 13, 1)], ids=str)
def test_a_stateful_loader_is_resumed_by_its_own_state(lives: tuple[int, ...]) -> None:
    expected, _ = consume(Counting(), 25)
    assert interrupted(Counting, 25, *lives) == expected
    assert expected[:12] == [*range(10), 100, 101]


def test_a_stateful_loader_is_used_as_it_is() -> None:
    loader = Counting()
    data = positioned(loader, 5)
    assert isinstance(data, StatefulData)
    assert list(islice(data.batches(nothing), 3)) == [0, 1, 2]
    assert data.state_dict() == {"kind": "stateful", "count": 3, "epoch": 0, "inner": {"position": 3, "epoch": 0}}


# --- no data, wrong data


def test_a_script_may_make_its_own_batches() -> None:
    data = positioned(None, 5)
    assert isinstance(data, NoData)
    opened: list[int] = []
    assert list(islice(data.batches(lambda: opened.append(1)), 3)) == [None] * 3
    assert opened == [1]
    data.load_state_dict(data.state_dict())


def drawn(skips: Sequence[Skip], state: Mapping[str, Any] | None = None, batches: int = 6) -> list[tuple[float, ...]]:
    """What a script draws from the global generators for each of its batches."""
    data = positioned(None, 5)
    if state is not None:
        data.load_state_dict(state)
    data.skips = data.skips.joined(skips)
    return [
        (torch.rand(()).item(), random.random(), float(np.random.rand()))
        for _ in islice(data.batches(lambda: None), batches)
    ]


def test_a_script_that_draws_its_batches_draws_others_where_some_are_left_out() -> None:
    generators = GlobalRandomState()
    before = generators.state_dict()
    whole = drawn([])
    generators.load_state_dict(before)
    skipped = drawn([Skip((0, 2), (0, 4), "batches")])
    assert skipped[:2] == whole[:2]
    assert not {value for drawing in skipped[2:] for value in drawing} & {value for one in whole for value in one}
    generators.load_state_dict(before)
    assert drawn([Skip((0, 2), (0, 4), "batches")]) == skipped  # whenever it is done again
    generators.load_state_dict(before)
    longer = drawn([Skip((0, 2), (0, 4), "batches"), Skip((0, 5), (0, 7), "batches")])
    assert longer[:3] == skipped[:3]
    assert longer[3] != skipped[3]


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(SIZE))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(Endless()), "IterableDataset Endless"),
        (iter(range(3)), "range_iterator"),
        ([1, 2, 3], "list"),
        (Numbers(), "nothing to iterate over"),
        (3, "data=3"),
    ],
    ids=["iterable dataset", "iterator", "list", "dataset", "number"],
)
def test_data_whose_position_cannot_be_restored_is_refused_with_a_way_out(data: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        positioned(data, 5)
    assert "DataLoader" in raised.value.remedy


def test_a_loader_without_a_single_batch_is_an_error_and_no_endless_loop() -> None:
    for loader in (DataLoader(Numbers(0)), DataLoader(Numbers(), batch_size=11, drop_last=True), _Empty()):
        with pytest.raises(UsageError, match="no batch at all"):
            consume(loader, 1)


class _Empty(Counting):
    def __iter__(self) -> Iterator[int]:
        return iter(())


@pytest.mark.parametrize("saved", [LOADERS["shuffled"](0), Counting(), None], ids=["loader", "stateful", "none"])
@pytest.mark.parametrize("now", [LOADERS["shuffled"](0), Counting(), None], ids=["loader", "stateful", "none"])
def test_a_position_of_another_kind_of_data_is_refused(saved: Any, now: Any) -> None:
    state, data = positioned(saved, 5).state_dict(), positioned(now, 5)
    if type(saved) is type(now):
        data.load_state_dict(state)
        return
    with pytest.raises(StateError, match=f"kind '{state['kind']}'"):
        data.load_state_dict(state)


def test_the_order_of_a_plain_sampler_is_computed_without_asking_it() -> None:
    """Which makes resuming O(1): not even indexes are drawn. A subclass may do anything, so it is asked."""
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    consume(DataLoader(Numbers(), batch_size=3, shuffle=True, generator=generator), 9)
    assert torch.equal(generator.get_state(), before)

    class OddFirst(SequentialSampler):
        def __iter__(self) -> Iterator[int]:
            return iter([*range(1, SIZE, 2), *range(0, SIZE, 2)])

    batches, _ = consume(DataLoader(Numbers(), batch_size=5, sampler=OddFirst(Numbers())), 2)
    assert batches == [[1, 3, 5, 7, 9], [0, 2, 4, 6, 8]]


@pytest.fixture
def another_default_device() -> Iterator[None]:
    torch.set_default_device("meta")  # as a script would set "cuda"; nothing can be drawn or read there
    yield
    torch.set_default_device(None)


@pytest.mark.usefixtures("another_default_device")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_default_device_of_the_script_is_none_of_our_business(workers: int) -> None:
    letters = list("abcdefgh")
    loader: DataLoader[str] = DataLoader(letters, batch_size=2, shuffle=True, num_workers=workers)  # type: ignore[arg-type]
    batches = positioned(loader, 1).batches(lambda: None)
    assert sorted(letter for _ in range(4) for letter in next(batches)) == letters
