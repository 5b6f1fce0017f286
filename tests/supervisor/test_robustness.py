"""What goes wrong around the supervisor while it looks at a failure, and must not end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.protocol.launch import WorkerError
from resilient.protocol.paths import RunPaths
from resilient.protocol.torch_error import read_torch_error
from resilient.supervisor import processes
from resilient.supervisor.incident_files import Dossier, IncidentFiles
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.stacks import StackDump, Suspect

_DEEP = "[" * 200_000

_FORKS = """
import os
print("up", flush=True)
while True:
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
"""


@pytest.fixture
def forking() -> Iterator[int]:
    """A process whose children end all the time."""
    process = subprocess.Popen([sys.executable, "-c", _FORKS], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_tree_can_be_looked_at_while_it_falls_apart(forking: int) -> None:
    ends = time.monotonic() + 2.0  # enough for the error to come up where it is one
    while time.monotonic() < ends:
        assert processes.tree(forking, threads=True)[0] == forking


def test_stacks_are_written_without_py_spys_where_no_temporary_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    suspect = Suspect(0, os.getpid(), launched=False, headline="rank 0: nothing", path=tmp_path / "stacks.txt")
    dump = StackDump([suspect], by=time.monotonic(), clock=time.monotonic, py_spy="/bin/true")
    assert dump.poll() is not None
    assert suspect.path.read_text().startswith("rank 0: nothing")


def test_without_another_thread_an_incident_is_only_not_kept(tmp_path: Path) -> None:
    told: list[str] = []
    files = IncidentFiles(RunPaths.of(tmp_path, "r"), told.append)
    threading.stack_size(1 << 46)  # no room for that anywhere
    try:
        files.keep(Dossier(7, {}))
    finally:
        threading.stack_size(0)
    assert "incident 7: its evidence is not kept" in told[0]
    files.keep(Dossier(8, {}))
    files.close()
    assert (RunPaths.of(tmp_path, "r").incident(8) / "incident.json").exists()


def test_error_files_that_make_no_sense_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    file.write_text(_DEEP)
    assert WorkerError.read(file) is None
    assert read_torch_error(file) is None
    file.write_text(json.dumps({"types": [1], "message": None, "traceback": 3}))
    assert WorkerError.read(file) == WorkerError(("1",), "None", "3")
    file.write_text(json.dumps({"message": {"message": "KeyError: 1", "extraInfo": {"timestamp": "nan"}}}))
    error = read_torch_error(file)
    assert error is not None
    assert error.time == 0.0


def test_lines_of_a_journal_that_are_no_entries_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    path.write_text(f'5\n[]\n"text"\n{_DEEP}\n')
    Journal(path).write("note", "kept", 0.0)
    assert [entry["name"] for entry in read_journal(path)] == ["kept"]
