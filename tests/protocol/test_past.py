"""What the memories of several nodes have in common: whatever happened to whom, two histories are never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random

from resilient.protocol.past import Began, CommonPast, Past, common_past

FIRST, SECOND, THIRD = Began(1, 0, 0), Began(1, 1, 5), Began(2, 2, 8)


def past(*rounds: Began, foreign: Sequence[int] = ()) -> Past:
    return Past(2, rounds, frozenset(foreign))


def test_what_all_have_taken_part_in_is_common_and_beyond_it_what_was_there_before_anybody_went_on() -> None:
    assert common_past([past(FIRST, SECOND), past(FIRST, SECOND)]) == CommonPast(past(FIRST, SECOND))
    assert common_past([past(FIRST, SECOND, THIRD), past(FIRST)]) == CommonPast(past(FIRST), until=5)
    assert common_past([past(FIRST, THIRD), past(FIRST, SECOND)]) == CommonPast(past(FIRST), until=5)
    common = common_past([past(FIRST, foreign=[3]), past(FIRST)])
    assert common is not None
    assert [step for step in range(5) if common.holds(step)] == [0, 1, 2, 4]


def test_what_is_not_known_or_of_another_beginning_has_nothing_in_common() -> None:
    for other in (None, past(), past(SECOND), Past(4, (FIRST,))):
        assert common_past([past(FIRST), other]) is None
    assert common_past([]) is None


def test_it_is_read_as_it_was_written_and_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert Past.read(tmp_path) is None
    for written in (Past(4), past(FIRST), past(FIRST, SECOND, foreign=[7, 3])):
        written.write(tmp_path)
        assert Past.read(tmp_path) == written
    (file,) = tmp_path.iterdir()
    for text in ("", "[]", '{"world": 2, "rounds": [[1, 2]], "foreign": []}', '{"world": "x"}'):
        file.write_text(text)
        assert Past.read(tmp_path) is None


# --- whole histories


@dataclass
class Node:
    """What a node has: by step, a mark of who has taken the image, which is the same for all ranks' that belong
    together.
    """

    past: Past | None = None
    images: dict[int, str] = field(default_factory=dict)


def whole(nodes: list[Node]) -> list[int]:
    """Steps that all of them have, as far as they may be taken together."""
    common = common_past(node.past for node in nodes)
    steps = set.intersection(*({*node.images} for node in nodes))
    return sorted(step for step in steps if common is not None and common.holds(step))


def read_in_vain(dice: Random, group: list[Node], number: int) -> None:
    """A snapshot is read from disk on some of the nodes, and no more comes of it."""
    step = dice.randint(0, 12)
    for node in group:
        if node.past is not None:
            node.past = node.past.with_foreign(step)
        if dice.random() < 0.5:
            node.images[step] = f"read in vain before round {number}"


def begin(dice: Random, group: list[Node], number: int) -> None:
    """A round begins, from memory, or from a snapshot on disk; those alone that are told of it do anything, and go on
    as far as they get.
    """
    steps, common = whole(group), common_past(node.past for node in group)
    begins = dice.choice(steps) if steps and dice.random() < 0.8 else None
    step = dice.randint(0, 6) if begins is None else begins
    began = Began(1 + number // 3, number, step)
    for node in (node for node in group if dice.random() < 0.8):
        if begins is None:
            node.past, node.images = Past(2, (began,)), {step: f"read for round {number}"}
        else:
            assert common is not None
            node.past = common.past.followed_by(began)
            node.images = {there: mark for there, mark in node.images.items() if there <= step}
        for taken in range(step + 1, step + dice.randint(1, 5)):
            node.images[taken] = f"round {number}"
        node.images = dict(sorted(node.images.items())[-dice.randint(1, 4) :])


def test_images_that_are_taken_together_are_of_one_history() -> None:
    for seed in range(1000):
        dice, nodes = Random(seed), [Node() for _ in range(3)]
        groups = [list(group) for count in (2, 3) for group in combinations(nodes, count)]
        for number in range(8):
            group = dice.choice(groups)
            if dice.random() < 0.2:
                read_in_vain(dice, group, number)
            begin(dice, group, number)
            for some in groups:
                for step in whole(some):
                    assert len({node.images[step] for node in some}) == 1, f"seed {seed}: step {step} of {some}"
