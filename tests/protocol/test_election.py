"""Who leads: by looks at the directory of terms, whatever is late or stands still."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.protocol.election import Election, Follow, Lead, LeaseWatch, is_first_of_job
from resilient.protocol.terms import Reign, Term, Terms
from tests.protocol.term_worlds import RacingFiles, Shared

LEASE = 10.0


class World:
    """Nodes that share a directory and a time. A node that reads or writes may be passed by others."""

    def __init__(self) -> None:
        self.now, self.shared, self.claimed = 0.0, Shared(), dict[int, str]()
        self.passed: Callable[[str], None] = lambda _node: None
        self.lost: Callable[[], bool] = lambda: False

    def before(self, node: str) -> None:
        """Somebody reads or writes."""
        self.passed(node)

    def loses(self) -> bool:
        """Whether the answer to a link is lost."""
        return self.lost()

    def node(self, name: str, *, preferred: bool = False) -> Node:
        return Node(self, name, preferred=preferred)


class Node:
    def __init__(self, world: World, name: str, *, preferred: bool) -> None:
        files = RacingFiles(world.shared, name, world.before, world.loses)
        self.world, self.name = world, name
        self.terms = Terms(files.directory, name, files)
        self.reign: Reign | None = None
        self._looked = 0.0
        self._preferred = preferred
        self.start()

    def start(self) -> None:
        """Also again, as its successor on the same node."""
        self.reign = None
        self._election = Election(
            self.terms,
            self.name,
            f"{self.name}:1",
            f"the-secret-of-{self.name}-{self.world.now:.0f}",
            lease_seconds=LEASE,
            clock=lambda: self.world.now,
            preferred=lambda: self._preferred,
        )

    def look(self) -> Lead | Follow | str:
        """What the supervisor of a node does, once."""
        if self.reign is not None:
            reign, mine = self.reign, self.reign.term.number
            later = any(number > mine for number in self.world.claimed)
            renewed = reign.renew()
            assert not (later and renewed and self.world.now >= self._looked + 1), "it is over, and was not told"
            self._looked = self.world.now
            if renewed:
                return Lead(reign.term)
            self.reign = None
            return "fenced"
        role = self._election.poll()
        if isinstance(role, Lead):
            number = role.term.number
            assert number not in self.world.claimed, "two lead in one term"
            self.world.claimed[number] = self.name
            self.reign = self.terms.reign(role.term, lease_seconds=LEASE, clock=lambda: self.world.now)
            self._looked = self.world.now
        return role


@pytest.fixture
def world() -> World:
    return World()


def test_the_preferred_node_leads_at_once_and_the_others_follow(world: World) -> None:
    a, b = world.node("a"), world.node("b", preferred=True)
    assert isinstance(a.look(), str), "it waits a moment"
    assert isinstance(b.look(), Lead)
    followed = a.look()
    assert isinstance(followed, Follow)
    assert followed.term.address == "b:1"


def test_where_the_preferred_one_does_not_come_another_leads(world: World) -> None:
    a = world.node("a")
    assert isinstance(a.look(), str)
    world.now += 2
    assert isinstance(a.look(), Lead)


def test_nobody_leads_while_there_are_signs_of_life_and_somebody_when_there_are_none(world: World) -> None:
    a, b = world.node("a", preferred=True), world.node("b", preferred=True)
    a.look()
    for _ in range(30):
        world.now += 1
        assert isinstance(a.look(), Lead)
        assert isinstance(b.look(), Follow)
    for _ in range(int(LEASE)):
        assert isinstance(b.look(), Follow)
        world.now += 1
    assert b.look() == Lead(Term(2, "b", "b:1", "the-secret-of-b-0"))
    world.now += 1
    assert a.look() == "fenced"
    assert isinstance(a.look(), Follow)


def test_a_node_that_stood_still_does_not_take_its_own_sleep_for_the_leaders(world: World) -> None:
    a, b = world.node("a", preferred=True), world.node("b", preferred=True)
    a.look()
    a.look()
    assert isinstance(b.look(), Follow)
    world.now += 1000
    assert isinstance(a.look(), Lead)
    assert isinstance(b.look(), Follow), "there was a sign of life meanwhile"

    def sleeps(node: str) -> None:
        world.now += 1000 if node == "b" else 0

    a.look()
    world.passed = sleeps
    for _ in range(5):
        a.look()
        assert isinstance(b.look(), Follow), "it sleeps after it has looked at the clock, and before it reads"


def test_who_led_last_leads_again_at_once_for_it_knows_that_it_is_gone(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.look()
    world.now += 2
    assert isinstance(a.look(), Lead)
    assert isinstance(b.look(), Follow)
    a.start()
    again = a.look()
    assert isinstance(again, Lead)
    assert again.term.number == 2
    assert isinstance(b.look(), Follow)


def test_a_term_that_was_closed_is_not_waited_for(world: World) -> None:
    a, b = world.node("a", preferred=True), world.node("b", preferred=True)
    led = a.look()
    assert isinstance(led, Lead)
    assert isinstance(b.look(), Follow)
    a.terms.close(led.term)
    assert isinstance(b.look(), Lead)


def test_a_claim_whose_answer_was_lost_is_a_claim(world: World) -> None:
    world.lost = lambda: True
    assert isinstance(world.node("a", preferred=True).look(), Lead)


def test_a_lease_is_watched_between_two_readings_of_the_same_sign() -> None:
    watch, silent = LeaseWatch.looked(None, 1, b"1", began=0, ended=5)
    assert (watch.since, silent) == (5, 0)
    watch, silent = LeaseWatch.looked(watch, 1, b"1", began=12, ended=99)
    assert silent == 7
    assert LeaseWatch.looked(watch, 1, b"2", began=100, ended=101)[1] == 0
    assert LeaseWatch.looked(watch, 2, b"1", began=100, ended=101)[1] == 0
    assert LeaseWatch.looked(watch, 1, b"1", began=4, ended=101)[1] == 0


def test_the_first_node_of_a_job_is_preferred() -> None:
    assert is_first_of_job({"SLURM_NODEID": "0"})
    assert not is_first_of_job({"SLURM_NODEID": "1"})
    assert not is_first_of_job({})


@settings(max_examples=200)
@given(st.data())
def test_whatever_is_late_stands_still_or_dies_no_term_has_two_leaders_and_in_the_end_there_is_one(
    data: st.DataObject,
) -> None:
    """A node may stand still before each of its reads and writes, for any time, while others do whatever they like."""
    world = World()
    nodes = [world.node(name, preferred=data.draw(st.booleans())) for name in "abc"]
    busy: list[str] = []
    pauses = data.draw(st.lists(st.tuples(st.sampled_from([0, 1, 9, 30]), st.sampled_from("abc-")), max_size=40))
    lost = data.draw(st.lists(st.booleans(), max_size=6))
    world.lost = lambda: bool(lost) and lost.pop()

    def look(node: Node) -> None:
        busy.append(node.name)
        try:
            node.look()
        finally:
            busy.pop()

    def passed_by(_node: str) -> None:
        if not pauses:
            return
        seconds, other = pauses.pop()
        world.now += seconds
        free = [node for node in nodes if node.name == other and node.name not in busy]
        if free:
            look(free[0])

    world.passed = passed_by
    turns = data.draw(
        st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from("lllllds"), st.sampled_from([0, 1, 5])))
    )
    for node, does, seconds in turns:
        world.now += seconds
        if does == "d":
            node.start()
        else:
            look(node)
    pauses.clear()
    for _ in range(int(LEASE) + 5):
        world.now += 1
        for node in nodes:
            look(node)
    leaders = [node for node in nodes if node.reign is not None]
    assert len(leaders) == 1
    assert all(isinstance(node.look(), Follow) for node in nodes if node not in leaders)
