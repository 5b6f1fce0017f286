"""Samplers of the user's own: the same order after a resume as without one, whatever they draw from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, WeightedRandomSampler, get_worker_info
from torch.utils.data.distributed import DistributedSampler

from resilient.errors import UsageError
from resilient.worker.data import positioned
from resilient.worker.loaders import LoaderData

SAMPLES, BATCH = 24, 4
EPOCH = SAMPLES // BATCH


class Numbers(Dataset[int]):
    def __init__(self) -> None:
        self.mark = 0

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        return index + self.mark


class OwnGenerator(Sampler[int]):
    """Shuffles with a generator that goes on from epoch to epoch."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return iter(self.generator.permutation(SAMPLES).tolist())


class Lazy(Sampler[int]):
    """Draws from the global generator for every index."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        for _ in range(SAMPLES):
            yield random.randrange(SAMPLES)


class ByEpoch(Sampler[int]):
    """As ``DistributedSampler`` does it."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def weighted(generator: torch.Generator | None) -> Sampler[int]:
    return WeightedRandomSampler([1.0] * SAMPLES, SAMPLES, generator=generator)


SAMPLERS: dict[str, Callable[[], Sampler[int]]] = {
    "weighted": lambda: weighted(None),
    "weighted with a generator": lambda: weighted(torch.Generator().manual_seed(3)),
    "own generator": OwnGenerator,
    "lazy": Lazy,
    "by epoch": ByEpoch,
    "distributed": lambda: DistributedSampler(Numbers(), num_replicas=1, rank=0, seed=3),
}


def loader(make: Callable[[], Sampler[int]]) -> LoaderData:
    return LoaderData(DataLoader(Numbers(), batch_size=BATCH, sampler=make()), seed=5)


def take(data: LoaderData, count: int) -> list[list[int]]:
    batches = data.batches(lambda: None)
    return [next(batches).tolist() for _ in range(count)]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("done", [1, EPOCH, 2 * EPOCH + 3])
def test_resumed_order_is_that_of_the_uninterrupted_run(name: str, done: int) -> None:
    whole = take(loader(SAMPLERS[name]), 4 * EPOCH)
    first = loader(SAMPLERS[name])
    assert take(first, done) == whole[:done]
    resumed = loader(SAMPLERS[name])
    random.seed(done)  # the global generators are elsewhere in another process
    resumed.load_state_dict(first.state_dict())
    assert take(resumed, 4 * EPOCH - done) == whole[done:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_epochs_differ(name: str) -> None:
    batches = take(loader(SAMPLERS[name]), 2 * EPOCH)
    assert batches[:EPOCH] != batches[EPOCH:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_global_generators_are_not_touched(name: str) -> None:
    data = loader(SAMPLERS[name])
    random.seed(0)
    torch.manual_seed(0)
    expected = random.getstate(), torch.get_rng_state().tolist()
    take(data, EPOCH + 1)
    assert (random.getstate(), torch.get_rng_state().tolist()) == expected


@pytest.mark.parametrize("batched", [True, False])
def test_the_order_of_a_distributed_sampler_is_computed_without_asking_it(
    monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    asked: list[int] = []
    made: DistributedSampler[int] = DistributedSampler(Numbers(), num_replicas=2, rank=1, seed=3)
    order = DistributedSampler.__iter__

    def spied(self: DistributedSampler[int]) -> Iterator[int]:
        asked.append(self.epoch)
        return order(self)

    monkeypatch.setattr(DistributedSampler, "__iter__", spied)
    data = LoaderData(DataLoader(Numbers(), batch_size=BATCH if batched else None, sampler=made), seed=5)
    data.load_state_dict({"kind": "loader", "seed": 5, "epoch": 1000, "batch": 1})
    batches = data.batches(lambda: None)
    found = next(batches)
    made.set_epoch(1000)
    expected = list(order(made))
    assert (found.tolist() if batched else [found]) == (expected[BATCH : 2 * BATCH] if batched else expected[1:2])
    assert asked == []
    assert made.epoch == 1000, "the script may look at it"


def test_a_generator_given_to_the_loader_changes_the_order() -> None:
    def first_batch(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        made = DataLoader(Numbers(), batch_size=BATCH, shuffle=True, generator=generator)
        return take(LoaderData(made, seed=5), 1)[0]

    assert first_batch(1) == first_batch(1)
    assert first_batch(1) != first_batch(2)


def test_a_loader_that_iterates_in_its_own_way_is_refused() -> None:
    class Scaled(DataLoader[int]):
        def __iter__(self) -> Any:
            return (batch * 100 for batch in super().__iter__())

    with pytest.raises(UsageError, match="Scaled iterates in its own way"):
        positioned(Scaled(Numbers(), batch_size=BATCH), 0)


def set_mark(_worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.mark = 1000  # type: ignore[attr-defined]  # it is a Numbers


def test_worker_init_fn_may_configure_the_dataset() -> None:
    made = DataLoader(Numbers(), batch_size=BATCH, num_workers=1, worker_init_fn=set_mark)
    assert min(take(LoaderData(made, seed=5), 1)[0]) >= 1000
