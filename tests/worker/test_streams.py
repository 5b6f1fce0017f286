"""Streams of the real Hugging Face ``datasets``: where they go on, and what is refused."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from resilient.errors import UsageError
from resilient.worker.data import positioned
from resilient.worker.outer_loop import Epochs

datasets = pytest.importorskip("datasets")
stateful_dataloader = pytest.importorskip("torchdata.stateful_dataloader")

BATCHES = 5  # of an epoch


def stream() -> Any:
    return datasets.Dataset.from_dict({"x": list(range(20))}).with_format("torch").to_iterable_dataset(num_shards=4)


def loader(of: Any = None, workers: int = 0, **given: Any) -> Any:
    return stateful_dataloader.StatefulDataLoader(of or stream(), 4, num_workers=workers, **given)


def numbers(batch: Any) -> list[int]:
    found: list[int] = batch["x"].reshape(-1).tolist()
    return found


def nothing() -> None:
    pass


def seen(data: Any, count: int) -> list[list[int]]:
    return [numbers(batch) for batch in islice(data.batches(nothing), count)]


@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (3, 1), (BATCHES, 0), (BATCHES + 2, 0)])
def test_epochs_after_the_one_in_which_a_run_resumes_begin_at_the_beginning(stop: int, workers: int) -> None:
    first = positioned(loader(workers=workers), 5)
    before = seen(first, stop)
    second = positioned(loader(workers=workers), 5)
    second.load_state_dict(first.state_dict())
    assert before + seen(second, 3 * BATCHES - stop) == seen(positioned(loader(), 5), 3 * BATCHES)


def test_a_stream_without_a_loader() -> None:
    first, second = positioned(stream(), 5), positioned(stream(), 5)
    before = seen(first, 23)
    second.load_state_dict(first.state_dict())
    assert before + seen(second, 40) == [[number % 20] for number in range(63)]


def test_in_the_loop_of_a_framework() -> None:
    first, second = positioned(loader(), 5), positioned(loader(), 5)
    epochs = Epochs(first, nothing)
    for _ in zip(range(3), epochs, strict=False):
        epochs.consumed(1)
    second.load_state_dict(first.state_dict())
    epochs, found = Epochs(second, nothing), []
    for _ in range(3):
        found.append(0)
        for _ in epochs:
            epochs.consumed(1)
            found[-1] += 1
    assert found == [BATCHES - 3, BATCHES, BATCHES]


def test_what_could_not_go_on_exactly_is_refused() -> None:
    shuffled = stream().shuffle(seed=3, buffer_size=8).map(lambda row: row)
    with pytest.raises(UsageError, match="in a buffer of 8 samples, which would be lost"):
        positioned(loader(shuffled), 5)
    with pytest.raises(UsageError, match="persistent workers") as refused:
        positioned(loader(workers=1, persistent_workers=True), 5)
    assert "persistent_workers=False" in str(refused.value)


def test_shards_alone_may_be_shuffled() -> None:
    first, second, whole = (positioned(loader(stream().shuffle(seed=3, buffer_size=1)), 5) for _ in range(3))
    before = seen(first, 3)
    second.load_state_dict(first.state_dict())
    assert before + seen(second, 7) == seen(whole, 10)
