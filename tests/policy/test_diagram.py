"""The state diagram, drawn from the table."""

from __future__ import annotations

import re

from resilient.policy.diagram import mermaid
from resilient.policy.machine import TABLE
from resilient.policy.state import Phase

EDGE = re.compile(r" {4}(\w+) --> (\w+): ([\w, ]+)")


def _edges() -> dict[tuple[str, str], set[str]]:
    return {
        (match[1], match[2]): set(match[3].split(", ")) for match in map(EDGE.fullmatch, mermaid().split("\n")) if match
    }


def test_the_diagram_is_mermaid_from_the_first_phase_to_the_last() -> None:
    lines = mermaid().split("\n")
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> new"]
    assert lines[-1] == "    ended --> [*]"
    assert len(lines) == len(_edges()) + 3


def test_the_diagram_covers_every_phase() -> None:
    assert {phase for edge in _edges() for phase in edge} == {phase.value for phase in Phase}


def test_the_diagram_has_every_edge_of_the_table_and_no_other() -> None:
    listed = {
        (phase.value, target.value, event.__name__)
        for phase, rows in TABLE.items()
        for event, row in rows.items()
        for target in row.targets
        if target is not phase
    }
    drawn = {(source, target, event) for (source, target), events in _edges().items() for event in events}
    assert drawn == listed
