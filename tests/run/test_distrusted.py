"""A run that has found its machine to compute wrong, started on it again."""

from __future__ import annotations

from resilient.errors import ExitCode
from resilient.protocol.distrusted import distrust
from tests.run.harness import Workspace


def test_it_ends_at_once_unless_somebody_says_otherwise(workspace: Workspace) -> None:
    case = workspace.run("kept-off", steps=3)
    case.paths.create()
    distrust(case.paths, "loss of step 5 is not the same twice", 4)
    assert case.finish() == ExitCode.UNTRUSTED_NODE
    assert "loss of step 5 is not the same twice (incident 4)" in case.output()
    assert "run.trust_node=true" in case.output()
    assert case.paths.last_round() == -1
    assert case.finish("run.trust_node=true") == 0, case.output()


def test_a_list_that_cannot_be_read_is_told_and_keeps_nobody_off(workspace: Workspace) -> None:
    case = workspace.run("damaged", steps=3)
    case.paths.create()
    case.paths.distrusted.write_text("[")
    assert case.finish() == 0, case.output()
    assert "no list of distrusted machines" in case.output()
    assert case.paths.distrusted.read_text() == "["
