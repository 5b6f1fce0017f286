"""A run that a scheduler starts on a machine that it is kept off."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient.errors import UntrustedNode
from resilient.policy.decisions import EndRun
from resilient.policy.state import PolicySettings, StopSettings
from resilient.protocol.distrusted import distrust
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal
from resilient.supervisor.scheduler import Notice, Unscheduled
from resilient.supervisor.settings import WorkerSettings
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.start import supervise


class Elsewhere(Unscheduled):
    """A scheduler that has another machine for the run."""

    def __init__(self) -> None:
        super().__init__(StopSettings())
        self.called: list[str] = []

    def begin(
        self, entries: Iterable[Mapping[str, Any]], step: int | None, journal: Journal, say: Callable[[str], None]
    ) -> None:
        self.called.append("begin")

    def signalled(self, number: signal.Signals, *, stopping: bool) -> Notice | None:
        raise AssertionError("nobody sends one")

    def conclude(self, ending: EndRun, reached: int) -> EndRun:
        self.called.append(f"conclude {ending.exit_code.name}")
        return replace(ending, diagnosis=f"{ending.diagnosis} It goes on elsewhere.")

    def leave(self) -> None:
        self.called.append("leave")


def test_the_scheduler_is_asked_to_start_it_elsewhere(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit(9)\n")
    paths, scheduler = RunPaths.of(tmp_path, "run"), Elsewhere()
    paths.create()
    distrust(paths, "loss of step 5 is not the same twice", 4)
    spec = RunSpec(paths, WorkerSettings(script=str(script)), SnapshotSettings(), PolicySettings())
    with pytest.raises(UntrustedNode, match="It goes on elsewhere") as caught:
        supervise(spec, lambda _journal: False, Console(io.StringIO()), scheduler)
    assert "run.trust_node=true" in caught.value.remedy
    assert scheduler.called == ["begin", "conclude UNTRUSTED_NODE", "leave"], "its budget is asked for first"
    assert paths.last_round() == -1
