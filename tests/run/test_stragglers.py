"""Two ranks of which one holds the other up: for a moment in each step, and then for good."""

from __future__ import annotations

from pathlib import Path

from tests.run.harness import RunCase, Workspace

_CONFIG = f"""
worker:
  script: {Path(__file__).with_name("train_uneven.py")}
  ranks: 2
hang:
  min_seconds: 0.5
  factor: 3
stragglers:
  steps: 20
restarts:
  first_wait: 0
  max_wait: 0
train:
  steps: 90
  hangs: true
"""


def _run(workspace: Workspace, run_id: str, *settings: str) -> RunCase:
    (workspace.directory / "conf" / "uneven.yaml").write_text(_CONFIG)
    return workspace.run(run_id, *settings, steps=90, conf="uneven", ranks=2)


def test_the_rank_that_the_other_waits_for_is_named(workspace: Workspace) -> None:
    case = _run(workspace, "uneven")
    assert case.finish() == 0, case.output()

    (report,) = case.journal("ReportStraggler")
    straggler = report["straggler"]
    assert isinstance(straggler, dict)
    assert (straggler["rank"], straggler["what"], straggler["over"]) == (1, "data", False)
    assert straggler["factor"] > 1.5
    assert "rank 1 is a straggler" in case.output()

    stopped, locked = (entry["incident"] for entry in case.journal("RecordIncident"))
    assert isinstance(stopped, dict)
    assert isinstance(locked, dict)
    assert [stopped["rank"], locked["rank"]] == [1, 1], case.output()
    assert "stopped by a signal (SIGSTOP)" in stopped["failure"]["signature"]
    assert "a_lock_that_nobody_opens" in locked["failure"]["where"]
    for incident in (1, 2):
        assert "backward" in case.paths.stacks(incident, 0).read_text(), "the other one waits in its backward pass"
        assert case.paths.stacks(incident, 1).exists()

    undisturbed = _run(workspace, "undisturbed", "train.hangs=false")
    assert undisturbed.finish() == 0, undisturbed.output()
    case.assert_equal_to(undisturbed, 90)
