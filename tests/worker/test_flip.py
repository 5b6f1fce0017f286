"""Flipping bits of what a step is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resilient.protocol.drill import Order
from resilient.worker.flip import Flips, first_gradient, flip_bit, tensors_of


@pytest.mark.parametrize(
    ("dtype", "bit", "before", "after"),
    [
        (torch.float32, 31, 1.0, -1.0),
        (torch.float32, 30, 1.0, float("inf")),
        (torch.float32, 23, 1.0, 0.5),
        (torch.float64, 31, 1.0, -1.0),
        (torch.float64, 30, 1.0, float("inf")),
        (torch.bfloat16, 31, 1.0, -1.0),
        (torch.bfloat16, 23, 1.0, 0.5),
        (torch.float16, 31, 1.0, -1.0),
        (torch.int64, 30, 6, 7),
        (torch.int32, 31, 7, 6),
        (torch.uint8, 5, 4, 5),
        (torch.int8, 5, -1, -2),
    ],
)
def test_one_bit_of_the_element_in_the_middle(dtype: torch.dtype, bit: int, before: float, after: float) -> None:
    tensor = torch.full((3, 3), before, dtype=dtype)
    version = tensor._version
    flip_bit(tensor, bit)
    assert tensor[1, 1].item() == after
    assert int((tensor != before).sum()) == 1
    assert tensor._version == version, "nothing has seen it"
    flip_bit(tensor, bit)
    assert torch.equal(tensor, torch.full((3, 3), before, dtype=dtype))


def test_of_a_view_and_of_a_single_number() -> None:
    base = torch.ones(4, 6)
    flip_bit(base.t()[::2], 31)
    assert int((base == -1).sum()) == 1
    number = torch.tensor(1.0)
    flip_bit(number, 31)
    assert number.item() == -1.0


def test_the_last_digit() -> None:
    tensor = torch.ones(1)
    flip_bit(tensor, 0)
    assert tensor.item() == torch.nextafter(torch.ones(()), torch.tensor(2.0)).item()


def test_fractions_are_flipped_before_whole_numbers() -> None:
    ids, mask = torch.tensor([1, 2]), torch.tensor([0.5])
    batch = {"ids": ids, "empty": torch.empty(0), "more": [mask, "text", 3]}
    assert next(iter(tensors_of(batch))) is mask
    assert next(iter(tensors_of((ids, 1)))) is ids
    assert list(tensors_of("text")) == []


def test_a_gradient_is_found_behind_the_loss() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    loss = model(torch.ones(1, 2)).sum()
    assert first_gradient(loss) is None, "there is none before the backward pass"
    loss.backward()
    found = first_gradient(loss)
    assert any(found is parameter.grad for parameter in model.parameters())
    assert first_gradient(torch.ones(())) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_as_the_loader_yields_it(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loading: Any = torch.utils.data.dataloader._BaseDataLoaderIter
    monkeypatch.setattr(loading, "__next__", loading.__next__)
    orders = iter([None, Order("flip", bit=31), None])
    monkeypatch.setattr("resilient.worker.flip.register_module_forward_pre_hook", lambda hook: None)
    Flips(lambda what: next(orders) if what == "batch" else None).arm()
    batches = list(DataLoader(TensorDataset(torch.ones(6, 2)), batch_size=2, num_workers=workers))
    assert [int((batch[0] < 0).sum()) for batch in batches] == [0, 1, 0]


def test_of_several_weights_the_last_which_no_normalisation_hides() -> None:
    flips = Flips(lambda what: Order("flip", bit=31) if what == "weight" else None)
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    before = [one.detach().clone() for one in model.parameters()]
    flips.before_forward(model)
    same = [torch.equal(one, old) for one, old in zip(model.parameters(), before, strict=True)]
    assert same == [True] * 5 + [False]


def test_a_weight_only_while_training() -> None:
    flips, model = Flips(lambda what: Order("flip", bit=31) if what == "weight" else None), nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    flips.before_forward(nn.ReLU())
    flips.before_forward(model.eval())
    assert torch.equal(model.weight, torch.ones(1, 3))
    flips.before_forward(model.train())
    assert model.weight.tolist() == [[1.0, -1.0, 1.0]]
