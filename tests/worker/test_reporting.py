"""Metrics from the training script on their way out."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from resilient.errors import UsageError
from resilient.worker.reporting import Reporter, users_own


def values_of(reporter: Reporter, before: int = 100) -> list[tuple[int, dict[str, float]]]:
    return [(metrics.step, dict(metrics.values)) for metrics in reporter.ready(before=before)]


def test_metrics_come_out_once_in_the_order_of_their_steps() -> None:
    reporter = Reporter()
    reporter.add(1, {"loss": 3.0})
    reporter.add(2, {"loss": 2.0, "lr": 0.1})
    assert values_of(reporter) == [(1, {"loss": 3.0}), (2, {"loss": 2.0, "lr": 0.1})]
    assert values_of(reporter) == []


@pytest.mark.parametrize("name", ["step", "rank", "resilient.batch", "resilient.anything"])
def test_names_that_are_not_the_scripts_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not free as the name"):
        Reporter().add(1, {name: 1.0})


def test_what_is_put_may_have_any_name_and_nothing_at_all_is_no_record() -> None:
    reporter = Reporter()
    reporter.put(1, {})
    assert values_of(reporter) == []
    reporter.put(2, {"resilient.batch": 3.0})
    reporter.add(2, {"loss": 1.0})
    (_, values) = values_of(reporter)[0]
    assert users_own(values) == {"loss": 1.0}


def test_several_reports_of_one_step_are_one_record() -> None:
    reporter = Reporter()
    reporter.add(1, {"loss": 3.0})
    reporter.add(1, {"lr": 0.1})
    assert values_of(reporter) == [(1, {"loss": 3.0, "lr": 0.1})]


def test_the_last_value_of_a_name_in_a_step_counts() -> None:
    reporter = Reporter()
    reporter.add(1, {"loss": 3.0, "lr": 0.1})
    reporter.add(1, {"loss": 2.0})
    assert values_of(reporter) == [(1, {"loss": 2.0, "lr": 0.1})]


def test_values_of_the_cpu_need_no_waiting() -> None:
    reporter = Reporter()
    reporter.add(5, {"loss": torch.tensor(2.0)})
    assert values_of(reporter, before=5) == [(5, {"loss": 2.0})]


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        True + 1,
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        Decimal(2),
        Fraction(4, 2),
        torch.tensor(2.0),
        torch.tensor(2),
        torch.tensor([[2.0]]),
        torch.tensor(2.0, dtype=torch.bfloat16),
        torch.tensor(2.0, requires_grad=True) * 1,
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)
def test_whatever_is_one_number_is_a_metric(value: Any) -> None:
    reporter = Reporter()
    reporter.add(1, {"x": value})
    ((_, found),) = values_of(reporter)
    assert found == {"x": 2.0}
    assert type(found["x"]) is float


def test_a_value_is_read_when_it_is_reported() -> None:
    reporter = Reporter()
    loss = torch.tensor(2.0)
    reporter.add(1, {"loss": loss})
    loss.fill_(9.0)
    assert values_of(reporter) == [(1, {"loss": 2.0})]


def test_non_finite_values_are_metrics_too() -> None:
    reporter = Reporter()
    reporter.add(1, {"a": math.inf, "b": torch.tensor(math.nan)})
    ((_, found),) = values_of(reporter)
    assert found["a"] == math.inf
    assert math.isnan(found["b"])


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)])
def test_a_tensor_of_several_numbers_is_refused_by_name_and_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"loss is a tensor of shape \(.*a metric is one number"):
        Reporter().add(1, {"loss": torch.zeros(shape)})


@pytest.mark.parametrize(
    "value", [None, "high", [1.0], {}, object(), 1j, np.zeros(2)], ids=lambda value: type(value).__name__
)
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(UsageError, match="loss="):
        Reporter().add(1, {"loss": value})
