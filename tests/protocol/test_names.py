"""Names on disk: built and parsed in one place, and none of them leads out of its directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigurationError
from resilient.protocol import names


@pytest.mark.parametrize("run_id", ["a", "7", "bytelm", "lr=1e-3,seed=1", "a.b_c-d+e", "x" * 128])
def test_a_plain_name_is_a_run_id(run_id: str) -> None:
    assert names.validate_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a/../b",
        "/etc",
        "a\\b",
        ".hidden",
        "-rf",
        "a b",
        "a\n",
        "a\0",
        "größe",
        "x" * 129,
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(run_id: str) -> None:
    with pytest.raises(ConfigurationError, match=r"run\.id"):
        names.validate_run_id(run_id)


@given(st.text(max_size=20))
def test_whatever_is_accepted_stays_inside_the_directory(run_id: str) -> None:
    try:
        accepted = names.validate_run_id(run_id)
    except ConfigurationError:
        return
    root = Path("/runs")
    assert (root / accepted).resolve() == root / run_id
    assert (root / accepted).parent == root


@given(st.integers(0, 10**18 - 1))
def test_snapshot_names_are_parsed_back_to_their_step(step: int) -> None:
    assert names.snapshot_step(names.snapshot_name(step)) == step


@given(st.lists(st.integers(0, 10**9 - 1), max_size=5))
def test_snapshot_names_sort_like_their_steps(steps: list[int]) -> None:
    assert sorted(map(names.snapshot_name, steps)) == [names.snapshot_name(step) for step in sorted(steps)]


@pytest.mark.parametrize(
    "name",
    [
        "latest",
        "step-1",
        "step-000000001.corrupt",
        "step-000000001.corrupt-2",
        ".tmp-step-000000001-abc",
        "step-000000001\n",
        "step--00000001",
        "step-000000001/..",
        "Step-000000001",
    ],
)
def test_anything_else_is_no_snapshot(name: str) -> None:
    assert names.snapshot_step(name) is None


@given(st.integers(0, 10**9 - 1))
def test_round_names_are_parsed_back_to_their_number(number: int) -> None:
    assert names.round_number(names.round_name(number)) == number


@pytest.mark.parametrize("name", ["round-1", "round-", "round-0001.old", "rounds-0001"])
def test_anything_else_is_no_round(name: str) -> None:
    assert names.round_number(name) is None


def test_files_of_a_rank() -> None:
    assert names.image_name(3) == "rank-00003.safetensors"
    assert names.log_name(3) == "rank-00003.log"
