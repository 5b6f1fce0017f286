"""Data that is left out, and positions that hold at any world size and batch size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler
from torch.utils.data.distributed import DistributedSampler

from resilient.errors import StateError, UsageError
from resilient.policy.lineage import Skip
from resilient.worker.data import positioned
from resilient.worker.positions import Positioned, leave_out
from resilient.worker.skips import Kept, SkipSet


class Numbers(Dataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Uneven(Sampler[list[int]]):
    """A batch sampler of the user's own, whose epochs are of different lengths: 2, 3, 4, … batches."""

    def __init__(self) -> None:
        self.epoch = 0
        self.begun = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.begun += 1
        yield from ([10 * self.begun + number] for number in range(self.begun + 1))


class Stream:
    """A loader that keeps its own position: epochs of five batches."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.at += 1
            yield self.at - 1
            if self.at % 5 == 0:
                return

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.at = state["at"]


def nothing() -> None:
    pass


def take(data: Positioned, count: int) -> list[Any]:
    stream = data.batches(nothing)
    found = [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in islice(stream, count)]
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    return found


def until_next_epoch(data: Positioned) -> list[Any]:
    """What is left of the epoch that the data stands in."""
    found, stream, epoch = [], data.batches(nothing), data.state_dict()["epoch"]
    for batch in stream:
        if data.state_dict()["epoch"] != epoch:
            break
        found.append(batch.tolist())
    stream.close()  # type: ignore[attr-defined]
    return found


def distributed(size: int, batch: int | None, ranks: int, rank: int, **options: Any) -> Positioned:
    """:param options: ``drop_short`` for the loader, ``drop_last`` and ``shuffle`` for the sampler."""
    drop_short = options.pop("drop_short", False)
    sampler: Any = DistributedSampler(Numbers(size), num_replicas=ranks, rank=rank, seed=3, **options)
    return positioned(DataLoader(Numbers(size), batch_size=batch, sampler=sampler, drop_last=drop_short), 5)


def shuffled(size: int, batch: int, *, drop_last: bool = False, workers: int = 0, **options: Any) -> Positioned:
    loader = DataLoader(
        Numbers(size), batch_size=batch, shuffle=True, drop_last=drop_last, num_workers=workers, **options
    )
    return positioned(loader, 5)


def resumed(data: Positioned, state: Mapping[str, Any], step: int = 0) -> Positioned:
    data.load_state_dict(json.loads(json.dumps(state)))
    data.resumed(step)
    return data


def without(data: Positioned, *skips: Skip) -> Positioned:
    leave_out(data, skips, (), 0)
    return data


# --- the arithmetic, beside the plainest possible model of it

offset = st.integers(0, 12)
places = st.tuples(st.integers(0, 3), offset)
skips_of_any_kind = st.lists(st.builds(Skip, places, places, st.just("samples")), max_size=5)


def naive(skips: Sequence[Skip], epoch: int, offset: int) -> bool:
    return any(skip.start <= (epoch, offset) < skip.end for skip in skips)


@given(skips=skips_of_any_kind, epoch=st.integers(0, 4), start=st.integers(0, 12), stop=st.integers(0, 12))
def test_what_is_kept_is_what_no_skip_holds(skips: list[Skip], epoch: int, start: int, stop: int) -> None:
    kept = SkipSet("samples").joined(skips).kept(epoch, start, stop)
    expected = [offset for offset in range(start, stop) if not naive(skips, epoch, offset)]
    assert [kept.at(index) for index in range(kept.size)] == expected


@given(
    skips=skips_of_any_kind,
    epoch=st.integers(0, 4),
    low=st.integers(0, 12),
    high=st.integers(0, 12),
    step=st.integers(1, 3),
)
def test_a_slice_of_what_is_kept(skips: list[Skip], epoch: int, low: int, high: int, step: int) -> None:
    kept = SkipSet("samples").joined(skips).kept(epoch, 0, 12)
    expected = [offset for offset in range(12) if not naive(skips, epoch, offset)]
    low, high = (min(end, kept.size) for end in (low, high))
    assert list(kept.pick(low, high, step)) == expected[low:high:step]


@given(skips=skips_of_any_kind, place=places)
def test_one_goes_on_where_nothing_is_left_out(skips: list[Skip], place: tuple[int, int]) -> None:
    joined = SkipSet("samples").joined(skips)
    left = joined.leave(place)
    assert not naive(skips, *left)
    assert (left != place) == naive(skips, *place)
    assert joined.joined(skips) == joined, "a second time changes nothing"
    assert SkipSet("samples").of_state(json.loads(json.dumps(joined.to_state()))) == joined


def test_nothing_is_kept_of_nothing() -> None:
    assert Kept(5, 3, [(0, 9)]).size == 0
    assert SkipSet("samples").to_state() == {}


def test_a_skip_of_another_unit_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="left out by batches"):
        joined = SkipSet("samples").joined([Skip((0, 1), (0, 2), "batches")])
    assert joined.skips == ()


# --- whole epochs, in whatever parts they are done

sizes = st.integers(1, 40)
few = st.integers(1, 4)


@dataclass(frozen=True)
class Sizes:
    ranks: int
    batch: int


offsets = st.tuples(st.just(0), st.integers(0, 40))
worlds = st.builds(Sizes, few, few)


def lives(size: int, world: Sizes, state: Mapping[str, Any], most: int | None = None) -> tuple[list[int], Any]:
    """What all ranks see of the epoch that ``state`` stands in, in the order of the epoch; where they stand then."""
    parts: list[tuple[int, int, list[int]]] = []
    ends = []
    for rank in range(world.ranks):
        data, end = resumed(distributed(size, world.batch, world.ranks, rank), state), state
        stream = data.batches(nothing)
        for number, batch in enumerate(islice(stream, most)):
            if data.state_dict()["epoch"] != state["epoch"]:
                break
            parts.append((number, rank, batch.tolist()))
            end = data.state_dict()
        ends.append(end)
        stream.close()  # type: ignore[attr-defined]
    assert all(end == ends[0] for end in ends), "all ranks stand at the same position"
    count = max((len(batch) for _, _, batch in parts), default=0)
    dealt = [
        batch[index]
        for number in range(len(parts))
        for index in range(count)
        for at, _, batch in parts
        if at == number and index < len(batch)
    ]
    return dealt, ends[0]


@given(
    size=sizes,
    worlds=st.tuples(worlds, worlds),
    done=st.integers(0, 12),
    skips=st.lists(st.builds(Skip, offsets, offsets), max_size=3),
)
def test_an_epoch_finished_at_another_world_size_and_batch_size_has_every_sample_once(
    size: int, worlds: tuple[Sizes, Sizes], done: int, skips: list[Skip]
) -> None:
    wanted = [sample for offset, sample in enumerate(_order(size, 0)) if not naive(skips, 0, offset)]
    beginning = without(distributed(size, 1, 1, 0), *skips).state_dict()
    before, state = lives(size, worlds[0], beginning, done)
    after, _ = lives(size, worlds[1], state)
    found = before + after
    assert found[: len(wanted)] == wanted or len(before) > len(wanted)
    assert set(found) == set(wanted)
    most_padding = max(worlds[0].ranks, worlds[1].ranks) - 1
    assert len(found) - len(wanted) <= most_padding, "what torch itself gives out twice, so that ranks are even"


def _order(size: int, epoch: int) -> list[int]:
    return torch.randperm(size, generator=torch.Generator().manual_seed(3 + epoch)).tolist()


@given(size=sizes, old=few, new=few, done=st.integers(0, 12))
def test_a_plain_shuffled_epoch_finished_with_another_batch_size(size: int, old: int, new: int, done: int) -> None:
    whole = [sample for batch in take(shuffled(size, size), 1) for sample in batch]
    first = shuffled(size, old)
    done = min(done, -(-size // old))
    batches = take(first, done)
    rest = until_next_epoch(resumed(shuffled(size, new), first.state_dict())) if done * old < size else []
    assert [sample for batch in [*batches, *rest] for sample in batch] == whole
    assert all(len(batch) == new for batch in rest[:-1])


# --- the distributed sampler is torch's own, to the bit


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("drop_short", [True, False])
@pytest.mark.parametrize(
    ("size", "ranks", "batch"),
    [
        (size, ranks, batch)
        for size, ranks in ((24, 4), (23, 4), (7, 3), (2, 5), (1, 4), (13, 1))
        for batch in (None, 1, 3)
    ],
)
def test_without_anything_left_out_the_batches_are_those_of_torch(
    size: int, ranks: int, batch: int | None, *, drop_short: bool, drop_last: bool, shuffle: bool
) -> None:
    drop_short = drop_short and batch is not None  # torch refuses the two together
    for rank in range(ranks):
        options: dict[str, Any] = {"drop_last": drop_last, "shuffle": shuffle}
        sampler: Any = DistributedSampler(Numbers(size), num_replicas=ranks, rank=rank, seed=3, **options)
        theirs = DataLoader(Numbers(size), batch_size=batch, sampler=sampler, drop_last=drop_short)
        expected = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            expected += [item.tolist() if batch else item for item in theirs]
        ours = distributed(size, batch, ranks, rank, drop_short=drop_short, **options)
        if not expected:
            with pytest.raises(UsageError, match="no batch at all"):
                take(ours, 1)
            continue
        assert take(ours, len(expected)) == expected
        half = len(expected) // 2
        first = distributed(size, batch, ranks, rank, drop_short=drop_short, **options)
        take(first, half)
        second = resumed(distributed(size, batch, ranks, rank, drop_short=drop_short, **options), first.state_dict())
        assert take(second, len(expected) - half) == expected[half:]


# --- leaving out steps


MAKERS: dict[str, Any] = {
    "shuffled": lambda: shuffled(20, 3),
    "dropping the last": lambda: shuffled(20, 3, drop_last=True),
    "in order": lambda: positioned(DataLoader(Numbers(20), batch_size=3), 5),
    "distributed": lambda: distributed(20, 3, 2, 1),
    "one by one": lambda: positioned(DataLoader(Numbers(7), batch_size=None, shuffle=True), 5),
    "one by one, distributed": lambda: distributed(12, None, 2, 1),
    "own batches": lambda: positioned(DataLoader(Numbers(10_000), batch_sampler=Uneven()), 5),
    "with replacement": lambda: positioned(
        DataLoader(Numbers(20), batch_size=3, sampler=RandomSampler(Numbers(20), replacement=True)), 5
    ),
    "stateful": lambda: positioned(Stream(), 5),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("restored", "first", "last"), [(4, 5, 6), (2, 5, 6), (0, 1, 1), (0, 3, 12), (5, 6, 31), (0, 1, 40), (3, 9, 9)]
)
def test_the_steps_left_out_are_gone_and_all_others_are_as_they_were(
    name: str, restored: int, first: int, last: int
) -> None:
    """The state is that of an older step than the first one left out, or of the one before it."""
    whole = take(MAKERS[name](), 60)
    early = MAKERS[name]()
    take(early, restored)
    data = resumed(MAKERS[name](), early.state_dict())
    (skip,) = leave_out(data, (), [(first, last)], restored)
    expected = whole[restored : first - 1] + whole[last:]
    assert take(data, len(expected)) == expected
    again = resumed(MAKERS[name](), early.state_dict())
    leave_out(again, [Skip.from_json(json.loads(json.dumps(skip.to_json())))], (), restored)
    assert take(again, len(expected)) == expected, "the skip says the same as the steps"


@pytest.mark.parametrize("name", MAKERS)
def test_snapshots_carry_what_is_left_out(name: str) -> None:
    whole = take(MAKERS[name](), 30)
    data = MAKERS[name]()
    leave_out(data, (), [(4, 9)], 0)
    assert take(data, 2) == whole[:2]
    second = resumed(MAKERS[name](), data.state_dict())
    assert take(second, 3) == [whole[2], whole[9], whole[10]]
    third = resumed(MAKERS[name](), second.state_dict())
    assert take(third, 5) == whole[11:16]


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_found_out_is_not_found_out_again_from_a_later_snapshot(name: str) -> None:
    """The worker died after its snapshot, before the supervisor had read the board: the plan says steps still."""
    whole = take(MAKERS[name](), 30)
    data = MAKERS[name]()
    skips = leave_out(data, (), [(4, 9), (6, 7)], 0)
    take(data, 5)
    second = resumed(MAKERS[name](), data.state_dict())
    assert leave_out(second, (), [(4, 9), (6, 7)], 5) == skips
    assert take(second, 3) == whole[13:16]


@pytest.mark.parametrize("name", MAKERS)
def test_steps_of_a_second_rollback_are_counted_without_what_the_first_left_out(name: str) -> None:
    """The first round was lost before it could say which data the first one leaves out; the second goes deeper."""
    whole = take(MAKERS[name](), 40)
    data = MAKERS[name]()
    take(data, 2)
    second = resumed(MAKERS[name](), data.state_dict())
    first_window, second_window = leave_out(second, (), [(7, 10), (5, 8)], 2)
    assert take(second, 8) == [*whole[2:4], *whole[12:18]]
    one_by_one = resumed(MAKERS[name](), data.state_dict())
    assert leave_out(one_by_one, (), [(7, 10)], 2) == (first_window,)
    again = resumed(MAKERS[name](), data.state_dict())
    assert leave_out(again, [first_window], [(5, 8)], 2) == (second_window,)


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_steps_after_a_second_rollback_are_other_data(name: str) -> None:
    whole = take(MAKERS[name](), 40)
    data = MAKERS[name]()
    (skip,) = leave_out(data, (), [(4, 9)], 0)
    take(data, 2)
    second = resumed(MAKERS[name](), data.state_dict())
    (other,) = leave_out(second, [skip], [(4, 9)], 2)
    assert other != skip
    assert take(second, 4) == [whole[2], *whole[15:18]]


def test_steps_that_are_behind_leave_out_nothing_more() -> None:
    data = shuffled(20, 3)
    take(data, 8)
    (skip,) = leave_out(data, (), [(2, 5)], 8)
    assert skip.start == skip.end
    assert data.skips.skips == ()


@pytest.mark.parametrize("name", ["shuffled", "distributed", "own batches", "stateful"])
def test_skips_may_overlap_and_lie_within_each_other(name: str) -> None:
    whole = take(MAKERS[name](), 30)
    skips: list[Skip] = []
    for steps in ((3, 6), (5, 8), (4, 5), (12, 12)):
        skips += leave_out(MAKERS[name](), (), [steps], 0)
    data = without(MAKERS[name](), *skips)
    assert take(data, 10) == [*whole[:2], *whole[8:11], *whole[12:17]]


def test_epochs_that_are_left_out_are_not_even_begun() -> None:
    begun: list[int] = []
    data = without(shuffled(20, 4), Skip((0, 8), (1_000_000_000, 4)))
    stream = data.batches(lambda: begun.append(1))
    batches = [next(stream).tolist() for _ in range(3)]
    assert batches[:2] == take(shuffled(20, 4), 2)
    assert data.state_dict()["epoch"] == 1_000_000_000
    assert data.state_dict()["offset"] == 8
    assert len(begun) == 2


def test_a_skip_to_the_end_of_an_epoch_and_one_of_a_whole_epoch() -> None:
    whole = take(shuffled(20, 4), 20)
    assert take(without(shuffled(20, 4), Skip((0, 12), (0, 20))), 4) == [*whole[:3], whole[5]]
    assert take(without(shuffled(20, 4), Skip((0, 12), (0, 500))), 4) == [*whole[:3], whole[5]]
    assert take(without(shuffled(20, 4), Skip((1, 0), (2, 0))), 6) == [*whole[:5], whole[10]]
    assert take(without(shuffled(20, 4), Skip((1, 0), (1, 20))), 6) == [*whole[:5], whole[10]]


def test_a_remainder_too_small_for_a_batch_is_no_endless_loop() -> None:
    data = without(shuffled(20, 4, drop_last=True), Skip((0, 2), (1, 0)))
    assert take(data, 1) == [take(shuffled(20, 4), 6)[5]]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("name", ["shuffled", "own"])
def test_prefetching_processes_leave_out_the_same(name: str, persistent: bool) -> None:
    def make(workers: int) -> Positioned:
        options: dict[str, Any] = {"num_workers": workers, "persistent_workers": persistent and workers > 0}
        if name == "own":
            return positioned(DataLoader(Numbers(10_000), batch_sampler=Uneven(), **options), 5)
        return positioned(DataLoader(Numbers(20), batch_size=3, shuffle=True, **options), 5)

    plain, prefetched = make(0), make(2)
    assert leave_out(plain, (), [(3, 9)], 0) == leave_out(prefetched, (), [(3, 9)], 0)
    expected = take(plain, 17)
    assert take(prefetched, 11) == expected[:11]
    later = resumed(make(2), prefetched.state_dict())
    assert take(later, 6) == expected[11:]
    assert later.state_dict() == plain.state_dict()


# --- positions of older releases


def test_a_position_of_an_older_release_still_counts_in_batches_of_the_sizes_that_are() -> None:
    old = {"kind": "loader", "seed": 5, "epoch": 1, "batch": 2}
    assert take(resumed(shuffled(20, 3), old), 5) == take(shuffled(20, 3), 14)[9:]
    assert take(resumed(shuffled(20, 3), {**old, "batch": 7}), 2) == take(shuffled(20, 3), 16)[14:]
    assert take(resumed(distributed(20, 3, 2, 1), old), 5) == take(distributed(20, 3, 2, 1), 11)[6:]


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("own batches", {"kind": "loader", "seed": 5, "epoch": 1, "batch": 1}),
        ("stateful", {"kind": "stateful", "epoch": 0, "inner": {"at": 3}}),
    ],
)
def test_one_without_a_count_takes_the_step_for_it(name: str, old: dict[str, Any]) -> None:
    whole = take(MAKERS[name](), 30)
    data = resumed(MAKERS[name](), old, step=3)
    assert leave_out(data, (), [(5, 8)], 3) == (Skip((0, 4), (0, 8), "batches"),)
    assert take(data, 3) == [whole[3], *whole[8:10]]


def test_a_position_in_samples_is_none_in_batches() -> None:
    with pytest.raises(StateError, match="counted in batches now"):
        MAKERS["own batches"]().load_state_dict(MAKERS["shuffled"]().state_dict())
    with pytest.raises(StateError, match="counted in samples now"):
        MAKERS["shuffled"]().load_state_dict(MAKERS["own batches"]().state_dict())


def test_augmentation_of_a_batch_is_the_same_whatever_is_left_out_before_it() -> None:
    class Drawn(Numbers):
        def __getitem__(self, index: int) -> float:  # type: ignore[override]
            return index + torch.rand(()).item()

    def make() -> Positioned:
        return positioned(DataLoader(Drawn(20), batch_size=3, shuffle=True), 5)

    whole = take(make(), 16)
    data = make()
    leave_out(data, (), [(3, 9)], 0)
    assert take(data, 9) == whole[:2] + whole[9:]
