"""The stacks of a group that hangs, as the leader has them written by itself and by the other nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from resilient.nodes.channel import Message
from resilient.nodes.world_memory import PostTo
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.culprit import RankAccount
from resilient.policy.state import RunState
from resilient.protocol.decoding import NotDecodable, decode
from resilient.supervisor.console import Console
from resilient.supervisor.journal import plain

_MORE_SECONDS = 1.0  # beyond the time that a node has for its stacks


class WorldStacks:
    """Asks the other nodes, and waits for them as long as for our own."""

    def __init__(self, post: PostTo, console: Console, clock: Callable[[], float]) -> None:
        self._post = post
        self._console = console
        self._clock = clock
        self._waiting: set[str] = set()
        self._by = 0.0
        self._accounts: list[RankAccount] | None = None  # None while none are wanted
        self._has_own = False  # ours are among them

    def dump(self, decision: do.DumpStacks, state: RunState, nodes: Mapping[str, Collection[int]]) -> None:
        """Have stacks written on the other nodes.

        :param nodes: the ranks of each of them.
        """
        self._accounts, self._by = [], decision.by + _MORE_SECONDS
        self._waiting = set()
        now = self._clock()
        for name, ranks in nodes.items():
            theirs = [rank for rank in decision.ranks if rank in ranks]
            if not theirs:
                continue
            watches = {str(rank): plain(state.watches[rank]) for rank in theirs}
            self._waiting.add(name)
            body = {"number": decision.number, "ranks": theirs, "hung": decision.hung, "seconds": decision.by - now}
            silent = {str(rank): now - state.watches[rank].since for rank in theirs}
            self._post(name, {"op": "dump", **body, "watches": watches, "silent": silent})

    def dumped(self, here: on.StacksDumped | None) -> on.StacksDumped | None:
        """What all have written, once; None until then.

        :param here: what came of it on this node, if that is known now.
        """
        if here is not None:
            self._accounts, self._has_own = [*(self._accounts or []), *here.accounts], True
        if self._accounts is None or not self._has_own:
            return None
        if self._waiting and self._clock() < self._by:
            return None
        accounts, self._accounts, self._has_own = tuple(self._accounts), None, False
        return on.StacksDumped(accounts)

    def heard(self, name: str, message: Message) -> None:
        """A node has written its own."""
        if name not in self._waiting or self._accounts is None:
            return
        self._waiting.discard(name)
        try:
            self._accounts += decode(on.StacksDumped, {"accounts": message.get("accounts", [])}).accounts
        except NotDecodable as error:
            self._console.say(f"what node {name} says of its stacks cannot be read: {error}")

    def lost(self, name: str) -> None:
        """Nobody need wait for that node."""
        self._waiting.discard(name)
