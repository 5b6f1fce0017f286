"""The pages that are made from the code have all of it, and say what it does."""

from __future__ import annotations

import html
import re

import pytest
from generate import commands, configuration, exit_codes, failures, formats, interface, states
from generate.docstrings import Docstring
from generate.inclusion import included, section

from resilient import cli
from resilient.config import load
from resilient.errors import ConfigurationError, ExitCode
from resilient.policy.failure_class import FailureClass
from resilient.policy.machine import TABLE
from resilient.policy.state import Phase
from resilient.worker.run import Run


def test_a_docstring_comes_apart_into_prose_code_and_fields() -> None:
    found = Docstring.parse(
        "What it is, see :func:`~a.b.c`.\n\n>>> x = ``1``\n\nMore::\n\n    y = 2\n\n"
        ":param a: one\n    and a half, ``b``.\n:raises E: then."
    )
    assert found.summary == "What it is, see `c`."
    assert found.text.count("```python") == 2
    assert "y = 2" in found.text
    assert found.fields == {"param": {"a": "one and a half, `b`."}, "raises": {"E": "then."}}


def test_every_key_is_documented_and_its_default_is_the_real_one() -> None:
    real = load("demo", []).config
    found = {key.path: key for key in configuration.all_keys()}
    assert [path for path, key in found.items() if not key.text] == []
    assert len(found) > 100
    assert found["snapshot.every_steps"].default == "100"
    assert found["hang.factor"].default == f"{real.hang.factor:g}"
    assert found["retention.best_mode"].kind == "`min` or `max`"
    assert found["divergence.margin"].may_change
    assert not found["worker.ranks"].may_change


@pytest.mark.parametrize(
    ("key", "bounds"),
    [
        ("worker.ranks", "at least 1 and at most 1024"),
        ("snapshot.slots", "at least 2"),
        ("remote.retention.last", "at least 1"),
        ("divergence.metrics.NAME.spike.window", "between 8 and 100000"),
        ("stop.grace_seconds", "more than 0"),
    ],
)
def test_bounds_are_those_of_the_checks(key: str, bounds: str) -> None:
    assert configuration.bounds(key) == bounds


def test_a_bound_that_is_shown_is_kept() -> None:
    with pytest.raises(ConfigurationError):
        load("demo", ["snapshot.slots=1"])


def test_the_configuration_page_has_every_key_once() -> None:
    page = configuration.page()
    for key in configuration.all_keys():
        assert page.count(f"{{ #{key.path} .key }}") == 1, key.path


def test_the_diagram_has_every_edge_of_the_table_and_no_other() -> None:
    titles = re.findall(r"<title>(.*?) → (\w+): (.*?)</title>", html.unescape(states.drawing()))
    drawn = set()
    for source, target, names in titles:
        members = states._GROUPS[source][0] if source in states._GROUPS else {source}
        drawn |= {(member, target) for member in members}
        assert all(set(states.edges()[member, target]) <= set(names.split(", ")) for member in members)
    listed = {
        (phase.value, target.value) for phase, rows in TABLE.items() for row in rows.values() for target in row.targets
    }
    assert drawn == {(source, target) for source, target in listed if source != target}


def test_every_phase_has_its_place_and_every_way_is_one_of_an_edge() -> None:
    assert set(states._PLACES) == {phase.value for phase in Phase}
    assert set(states._ROUTES) <= set(states.lifted())
    assert set(states._LABELS) <= set(states.lifted())


def test_every_class_of_failures_has_a_section_with_what_is_done() -> None:
    page = failures.page()
    for failure_class in FailureClass:
        assert f"{{ #{failures.anchor(failure_class)} }}" in page
    assert "Given up at the third (the hardware is at fault)" in page
    seen = set(re.findall(r"#(\w+)\) \|", page))
    assert {str(int(code)) for code in (ExitCode.HUNG, ExitCode.DIVERGED, ExitCode.DISK_FULL)} <= seen


def test_every_class_is_recognised_by_something_that_is_said() -> None:
    for text in failures.page().split("\n## ")[2:]:
        if not text.startswith("Echo"):
            assert "**Seen as**" in text or "**Exceptions**" in text or "Messages that" in text, text[:40]


def test_every_exit_code_has_its_meaning_and_the_next_step() -> None:
    page = exit_codes.page()
    for code in ExitCode:
        assert f'<span id="{code.value}">' in page
        assert code.description in page


def test_every_command_has_its_help() -> None:
    page = commands.page()
    for name in ["train", *cli._MODULES]:
        assert f"{{ #{name} }}" in page
    assert "resilient snapshots export" in page
    assert "disk_full" in page, "the faults of drill --list"


def test_the_interface_has_what_a_script_uses() -> None:
    page = interface.page()
    own = {name for name in vars(Run) if not name.startswith("_")} - interface._OF_THE_HOST
    for name in own:
        assert f"### run.{name} {{" in page
    assert "resilient.integrations.lightning.Resilient" in page
    assert "SnapshotWriter(" in page


def test_pieces_of_the_formats_are_what_is_written() -> None:
    pieces = formats.pieces()
    assert '"format": "resilient-snapshot"' in pieces["manifest"]
    assert '"WorkerProgressed"' in pieces["journal"]
    assert all(pieces.values())


def test_a_section_ends_where_the_next_one_of_its_level_begins() -> None:
    text = "# T\n## A\na\n### B\n```\n## no heading\n```\n## C\nc\n"
    assert section(text, "A") == "a\n### B\n```\n## no heading\n```"
    with pytest.raises(LookupError):
        section(text, "D")


def test_links_of_what_is_included_lead_to_pages_or_nowhere() -> None:
    text = included("<!-- section: README.md | In other people's loops -->", "guides/integrations.md")
    assert "](../migrate/from-torchrun.md)" in text
    assert "docs/migrate" not in text
