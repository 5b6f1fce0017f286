"""The journal of a real run, replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient.cli import main
from resilient.drill.faults import KillSupervisor, KillWorker
from resilient.errors import ExitCode
from tests.run.harness import Workspace


def test_a_run_with_kills_and_a_crash_loop_replays_as_it_was(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    case = workspace.run("replayed", "train.raise_at=23")
    running = case.start().wait_for_step(5)
    KillWorker().inject(running.target)
    running.wait_for_step(12)
    KillSupervisor().inject(running.target)
    running.wait()
    assert case.finish() == ExitCode.CRASH_LOOP, case.output()
    runs = f"dir={workspace.directory / 'runs'}"
    assert main(["replay", "replayed", runs]) == ExitCode.FINISHED, capsys.readouterr().out
    assert "today's policy decides the same." in capsys.readouterr().out
    assert main(["replay", str(case.paths.root), "--json", "--set", "restarts.crash_loop=2"]) == ExitCode.DIFFERENT
    (journal,) = json.loads(capsys.readouterr().out)["journals"]
    assert journal["problems"] == []
    first = journal["differences"][0]
    assert first["event"]["name"] == "WorkerExited"
    assert "FlushMemory" in [decision["name"] for decision in first["now"]]


def test_what_cannot_be_replayed_has_its_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "j.jsonl"
    journal.write_text("no journal\n")
    assert main(["replay", str(journal)]) == ExitCode.UNREADABLE
    assert "line 1 is no entry" in capsys.readouterr().err
    assert main(["replay", "nobody", f"dir={tmp_path}"]) == ExitCode.NOT_FOUND
    assert main(["replay", str(journal), "--set", "restarts.crash_lop=2"]) == ExitCode.CONFIG
    assert "did you mean restarts.crash_loop?" in capsys.readouterr().err
    assert main(["replay", str(journal), "--set", "restarts.crash_loop=soon"]) == ExitCode.CONFIG
    assert main(["replay", str(journal), "--set", "restarts.crash_loop"]) == ExitCode.USAGE
