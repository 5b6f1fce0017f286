"""Changes of tensors are seen: all that torch counts, and of the others those that touch a sampled element."""

from __future__ import annotations

import pytest
import torch

from resilient.worker.guard import Guard, Samples
from resilient.worker.leaves import DTYPES


def guard(*tensors: torch.Tensor) -> Guard:
    return Guard(tensors, Samples(tensors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_writes_through_data_are_seen_whatever_the_type(dtype: torch.dtype) -> None:
    tensor = torch.zeros(10).to(dtype)
    watching = guard(torch.ones(2), tensor)
    assert watching.unchanged()
    tensor.data.copy_(torch.ones(10).to(dtype))
    assert not watching.unchanged()


def test_nan_is_no_change() -> None:
    assert guard(torch.full((10,), float("nan"))).unchanged()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(()),
        torch.ones(3),
        torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.ones(20)[5:],
    ],
    ids=["one element", "three", "channels last", "a view"],
)
def test_writes_through_data_are_seen_whatever_the_form(tensor: torch.Tensor) -> None:
    watching = guard(tensor)
    assert watching.unchanged()
    tensor.data.mul_(2)
    assert not watching.unchanged()


def test_what_does_not_lie_in_one_piece_is_judged_by_its_count_alone() -> None:
    base = torch.ones(3, 4)
    watching = guard(base[:, :2], torch.ones(1).expand(5))
    base.data.zero_()
    assert watching.unchanged()
    base.add_(1)
    assert not watching.unchanged()


def test_samples_are_prepared_once_for_the_same_tensors() -> None:
    tensors = [torch.ones(3), torch.ones(4)]
    samples = Samples(tensors)
    assert samples.of(list(tensors)) is samples
    assert samples.of(tensors[:1]) is not samples
    assert samples.of([tensors[0], torch.ones(4)]) is not samples
