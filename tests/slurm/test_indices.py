from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigurationError
from resilient.slurm.indices import as_indices, parse_indices


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [
        ("0-3", [0, 1, 2, 3], 0),
        ("7", [7], 0),
        ("1,3,5-9:2", [1, 3, 5, 7, 9], 0),
        ("0-1%1", [0, 1], 1),
        ("%4", [], 4),
        ("3,1,1", [1, 3], 0),
    ],
)
def test_indices_are_read_as_sbatch_does(text: str, indices: list[int], limit: int) -> None:
    assert parse_indices(text) == (indices, limit)


@pytest.mark.parametrize("text", ["", "5-1", "a", "1-2-3", "1%", "1%0", "1%x", "1-5:0", "-1", "1 2", "0-99999999999"])
def test_what_sbatch_would_not_take_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"slurm\.array"):
        parse_indices(text)


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(0, 9))
def test_what_is_written_is_read_back(indices: set[int], limit: int) -> None:
    assert parse_indices(as_indices(sorted(indices), limit)) == (sorted(indices), limit)


def test_neighbours_are_written_as_a_range() -> None:
    assert as_indices([0, 1, 2, 5, 7, 8], 2) == "0-2,5,7-8%2"
