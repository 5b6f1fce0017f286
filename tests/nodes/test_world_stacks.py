"""The stacks of a group on several nodes: all are waited for, but none of them for ever."""

from __future__ import annotations

import io
from typing import Any

import pytest

from resilient.nodes.world_stacks import WorldStacks
from resilient.policy.culprit import RankAccount
from resilient.policy.decisions import DumpStacks
from resilient.policy.events import StacksDumped
from resilient.policy.hang import HangWatch
from resilient.policy.state import RunState
from resilient.supervisor.console import Console
from resilient.supervisor.journal import plain

NODES = {"b": range(1, 2), "c": range(2, 3)}
STATE = RunState(watches={rank: HangWatch(since=90.0) for rank in range(3)})
DUMP = DumpStacks(1, (0, 1, 2), (1,), by=102.0)
OURS = StacksDumped((RankAccount(0),))


class Leader:
    """Has asked for the stacks at 100 s."""

    def __init__(self) -> None:
        self.now = 100.0
        self.posted: dict[str, Any] = {}
        self.stream = io.StringIO()
        self.stacks = WorldStacks(self._post, Console(self.stream), lambda: self.now)
        self.stacks.dump(DUMP, STATE, NODES)

    def _post(self, name: str, message: Any) -> int:
        self.posted[name] = message
        return len(self.posted)

    def hear(self, name: str, *ranks: int) -> None:
        self.stacks.heard(name, {"accounts": plain(StacksDumped(tuple(map(RankAccount, ranks))))["accounts"]})


@pytest.fixture
def leader() -> Leader:
    return Leader()


def test_each_node_is_asked_for_its_own_ranks(leader: Leader) -> None:
    assert {name: (message["ranks"], message["silent"]) for name, message in leader.posted.items()} == {
        "b": ([1], {"1": 10.0}),
        "c": ([2], {"2": 10.0}),
    }


def test_they_are_there_once_when_all_have_answered_or_are_lost(leader: Leader) -> None:
    assert leader.stacks.dumped(OURS) is None
    leader.hear("b", 1)
    assert leader.stacks.dumped(None) is None
    leader.stacks.lost("c")
    dumped = leader.stacks.dumped(None)
    assert dumped is not None
    assert sorted(account.rank for account in dumped.accounts) == [0, 1]
    assert leader.stacks.dumped(None) is None


def test_who_does_not_answer_is_not_waited_for_and_heard_no_more(leader: Leader) -> None:
    leader.hear("b", 1)
    assert leader.stacks.dumped(OURS) is None
    leader.now = 103.1
    dumped = leader.stacks.dumped(None)
    assert dumped is not None
    assert sorted(account.rank for account in dumped.accounts) == [0, 1]
    leader.hear("c", 2)
    assert leader.stacks.dumped(None) is None


def test_what_cannot_be_read_is_said_and_ends_the_waiting(leader: Leader) -> None:
    leader.stacks.heard("c", {"accounts": [{"rank": "none"}]})
    leader.hear("b", 1)
    dumped = leader.stacks.dumped(OURS)
    assert dumped is not None
    assert sorted(account.rank for account in dumped.accounts) == [0, 1]
