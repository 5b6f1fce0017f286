"""Hashes of what a step is made of: the same for the same, another for anything else, and no wait for a device."""

from __future__ import annotations

import dataclasses
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resilient.protocol.metrics_log import BATCH_HASH, GRADIENT_HASH, PARAMETER_HASH
from resilient.protocol.settings import FingerprintSettings
from resilient.worker.batch_hash import BatchHash, hash_of
from resilient.worker.checksum import Checksum, checksum_of
from resilient.worker.fingerprint import Fingerprint


class Pair(NamedTuple):
    x: torch.Tensor
    y: int


@dataclasses.dataclass
class Example:
    tokens: torch.Tensor
    text: str


def tensor(seed: int = 0, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape or (4, 3), generator=torch.Generator().manual_seed(seed)).to(dtype)


BATCHES: dict[str, Callable[[int], Any]] = {
    "tensor": tensor,
    "one number": lambda seed: tensor(seed)[0, 0],
    "pair": lambda seed: (tensor(), tensor(seed)),
    "list of pairs": lambda seed: [Pair(tensor(), 1), Pair(tensor(seed), 2)],
    "dictionary": lambda seed: {"x": tensor(), "y": {"z": tensor(seed)}},
    "user dictionary": lambda seed: UserDict({"x": tensor(seed)}),
    "array": lambda seed: np.random.default_rng(seed).normal(size=(3, 2)),
    "scalar of numpy": np.float32,
    "texts": lambda seed: ["a", f"b{seed}"],
    "bytes": lambda seed: [b"a", bytes([seed])],
    "numbers": lambda seed: [1, 2.5 + seed, True, None],
    "dataclass": lambda seed: Example(tensor(seed), "x"),
    "bfloat16": lambda seed: tensor(seed, dtype=torch.bfloat16),
    "float8": lambda seed: tensor(seed, dtype=torch.float8_e4m3fn),
    "complex conjugate": lambda seed: torch.complex(tensor(seed), tensor()).conj(),
    "boolean": lambda seed: tensor(seed) > 0,
    "transposed": lambda seed: tensor(seed).T,
    "expanded": lambda seed: tensor(seed, 1, 3).expand(5, 3),
    "with a gradient": lambda seed: tensor(seed).requires_grad_(),
    "an object beside it": lambda seed: [object, tensor(seed)],
    "dates": lambda seed: np.array([f"20{20 + seed}-01-01"], dtype="M8[D]"),
    "channels last": lambda seed: tensor(seed, 2, 3, 4, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", BATCHES)
def test_equal_batches_have_equal_hashes_and_others_have_others(name: str) -> None:
    make = BATCHES[name]
    found = hash_of(make(0))
    assert found is not None
    assert found == hash_of(make(0))
    assert found != hash_of(make(1))
    assert found == int(found)
    assert 0 <= found < 2**53


def test_form_types_and_shapes_count() -> None:
    values = torch.zeros(12)
    batches: list[Any] = [
        *(values, values.view(3, 4), values.view(4, 3), values.int(), values.double(), [values], (values,)),
        *(
            {"x": values},
            {"y": values},
            [values, values],
            [[values], values],
            [1],
            [1.0],
            ["1"],
            [True],
            torch.zeros(13),
        ),
    ]
    assert len({hash_of(batch) for batch in batches}) == len(batches)


@pytest.mark.parametrize(
    "batch",
    [None, [], {}, [None], object(), [object()], set(), np.array([object()])],
    ids=lambda batch: type(batch).__name__,
)
def test_where_there_is_nothing_to_hash_there_is_no_hash(batch: Any) -> None:
    assert hash_of(batch) is None


def test_what_lies_on_a_device_counts_by_its_shape_alone_and_is_not_looked_at() -> None:
    assert hash_of(torch.zeros(3, device="meta")) is None
    on_device = [hash_of([torch.ones(2), torch.zeros(size, device="meta")]) for size in (3, 3, 4)]
    assert on_device[0] == on_device[1] != on_device[2]
    assert hash_of(torch.zeros(3).to_sparse()) is None


@given(place=st.integers(0, (4 << 20) - 1))
def test_up_to_4_mib_every_byte_counts(place: int) -> None:
    batch = torch.zeros(4 << 20, dtype=torch.uint8)
    before = hash_of(batch)
    batch[place] = 1
    assert hash_of(batch) != before


@pytest.mark.parametrize("form", ["contiguous", "channels last", "sliced", "expanded"])
def test_of_a_larger_one_pieces_from_all_over_it_count(form: str) -> None:
    def make() -> torch.Tensor:
        batch = torch.zeros(64, 3, 256, 128)
        if form == "channels last":
            return batch.to(memory_format=torch.channels_last)
        if form == "sliced":
            return batch[:, :, ::2, 1:]
        return batch[:, :1].expand(64, 3, 256, 128) if form == "expanded" else batch

    empty = hash_of(make())
    assert empty == hash_of(make())
    for image in (slice(0, 1), slice(63, 64), slice(16, 48)):
        changed = make().clone(memory_format=torch.preserve_format)
        changed[image] = 1.0
        assert changed.stride() == make().stride() or form in ("sliced", "expanded")
        assert hash_of(changed) != hash_of(make().clone(memory_format=torch.preserve_format)), image


def test_a_batch_of_very_many_objects_is_not_walked_through_for_ever() -> None:
    nested: list[Any] = [1.0] * 1000
    for _ in range(5):
        nested = [nested] * 1000
    assert hash_of(nested) is not None


def test_a_batch_that_cannot_be_read_is_warned_of_once() -> None:
    class Odd(UserDict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("not now")

    hashes = BatchHash()
    with pytest.warns(UserWarning, match="not now"):
        assert hashes.of(Odd()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hashes.of(Odd()) is None


def test_a_batch_within_itself_is_no_endless_loop() -> None:
    batch: list[Any] = [1]
    batch.append(batch)
    with pytest.warns(UserWarning, match="cannot be hashed"):
        BatchHash().of(batch)


# --- gradients and parameters


class Training:
    """A model, two optimizers, and the hashes of each step."""

    def __init__(self, **settings: bool) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        self.optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in self.model]
        objects = {"model": self.model, "optimizer.0": self.optimizers[0], "optimizer.1": self.optimizers[1]}
        self.fingerprint = Fingerprint(FingerprintSettings(**settings), objects)
        self.fingerprint.open()

    def step(self, flip: tuple[str, int] | None = None, optimizers: int = 2) -> dict[str, Any]:
        self.model(torch.ones(2, 3)).sum().backward()
        if flip is not None and flip[0] == "gradient":
            _flip(next(self.model[1].parameters()).grad, flip[1])
        for optimizer in self.optimizers[:optimizers]:
            optimizer.step()
            optimizer.zero_grad()
        if flip is not None and flip[0] == "parameter":
            _flip(next(self.model[0].parameters()), flip[1])
        return self.fingerprint.of_step()


@torch.no_grad()
def _flip(values: Any, bit: int) -> None:
    values.view(torch.int32).view(-1)[0] ^= 1 << bit if bit < 31 else -(1 << 31)


@pytest.fixture
def train() -> Iterator[Callable[..., Training]]:
    made: list[Training] = []

    def make(**settings: bool) -> Training:
        made.append(Training(**settings))
        return made[-1]

    yield make
    for training in made:
        training.fingerprint.close()


def test_only_the_batch_is_hashed_unless_more_is_asked_for(train: Callable[..., Training]) -> None:
    training = train()
    assert training.fingerprint.of_batch(tensor()) == {BATCH_HASH: hash_of(tensor())}
    assert training.fingerprint.of_batch(None) == {}
    assert training.step() == {}
    assert train(batch=False).fingerprint.of_batch(tensor()) == {}


@pytest.mark.parametrize("bit", [0, 10, 22, 30, 31])
@pytest.mark.parametrize(("what", "name"), [("gradient", GRADIENT_HASH), ("parameter", PARAMETER_HASH)])
def test_a_flipped_bit_is_seen_in_the_step_in_which_it_happens(
    train: Callable[..., Training], what: str, name: str, bit: int
) -> None:
    def hashes(flip: tuple[str, int] | None) -> list[dict[str, Any]]:
        training = train(gradients=True, parameters=True)
        found = [training.step(flip if step == 2 else None) for step in range(4)]
        training.fingerprint.close()
        return found

    clean, flipped = hashes(None), hashes((what, bit))
    assert clean == hashes(None)
    assert [one == other for one, other in zip(clean, flipped, strict=True)][:2] == [True, True]
    assert clean[2][name] != flipped[2][name]
    if what == "parameter":
        assert clean[2][GRADIENT_HASH] == flipped[2][GRADIENT_HASH]


def test_a_step_in_which_no_optimizer_steps_has_no_gradients(train: Callable[..., Training]) -> None:
    training = train(gradients=True)
    both = training.step()
    assert GRADIENT_HASH in both
    assert training.step(optimizers=0) == {}


def test_all_optimizers_of_a_step_count(train: Callable[..., Training]) -> None:
    assert train(gradients=True).step() != train(gradients=True).step(optimizers=1)


def test_a_checksum_on_a_device_is_told_from_others_by_a_single_bit() -> None:
    """The arithmetic of accelerators, done on the CPU."""

    def value(total: int) -> int:
        return int(Checksum(5, torch.tensor(total)).value())

    for bit in range(63):
        assert value(12345) != value(12345 ^ 1 << bit)
    assert 0 <= value(-1) < 2**53
    first, second = Checksum(1, torch.tensor(3)), Checksum(2, torch.tensor(4))
    assert first.then(second).value() != second.then(first).value()


def test_nothing_to_sum_is_no_checksum() -> None:
    assert checksum_of([]) is None
    assert checksum_of([torch.zeros(0), torch.zeros(3, device="meta")]) is None
    assert checksum_of([torch.complex(tensor(), tensor(1)), tensor().T, tensor()[0, 0]]) is not None
