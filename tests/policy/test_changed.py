"""The quick copy of a state is what ``dataclasses.replace`` would make of it."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from resilient.policy.changed import changed
from resilient.policy.hang import HangWatch
from resilient.policy.state import Phase, RunState


def test_it_is_what_replace_makes() -> None:
    state = RunState(round=3, live=frozenset({0, 1}))
    after = changed(state, phase=Phase.RUNNING, step=7, steps={0: 7, 1: 8})
    assert after == replace(state, phase=Phase.RUNNING, step=7, steps={0: 7, 1: 8})
    assert state == RunState(round=3, live=frozenset({0, 1}))


@pytest.mark.parametrize("kind", [RunState, HangWatch])
def test_the_states_that_are_copied_so_have_nothing_that_a_constructor_would_check(kind: type) -> None:
    assert not hasattr(kind, "__post_init__")
    assert {field.name for field in fields(kind)} == set(vars(kind(since=0.0) if kind is HangWatch else kind()))
