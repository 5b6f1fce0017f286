"""Training that a person looks at: a real terminal, as wide as it says it is."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from tests.run.harness import TIMEOUT, Workspace

_COLUMNS = 70


def test_a_terminal_shows_how_far_the_run_is_in_its_last_line(workspace: Workspace) -> None:
    case = workspace.run("shown", "train.step_seconds=0.05", "train.raise_once_at=30")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, _COLUMNS, 0, 0))
    command = [sys.executable, "-m", "resilient", "train", f"conf={case.configuration()}", "run.id=shown"]
    process = subprocess.Popen(
        [*command, f"run.dir={workspace.directory / 'runs'}", *case.settings],
        cwd=workspace.directory,
        env={**workspace.environment(), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = _read(ours, process)
    assert process.wait(TIMEOUT) == 0, shown
    states = re.findall(r"shown  [━╺─]+  (\d+)/60  \d+ %", shown)
    assert len(states) >= 3, shown
    assert int(states[0]) < int(states[-1]), "it moves on"
    assert re.search(r"ETA 0:00:\d\d", shown)
    for line in re.split(r"\r\n|\r\x1b\[2K", shown):
        if line.startswith("shown  "):
            assert len(line) < _COLUMNS, "no line of it wraps"
    lines = [re.sub(r"\x1b\[\d*m", "", line.rpartition("\r\x1b[2K")[2]) for line in shown.split("\r\n")]
    assert any("RuntimeError: a bug in step 30" in line or "incident 1" in line for line in lines)
    assert not any(line.startswith("shown  ") for line in lines), "it gave way to every line, and is gone at the end"


def _read(terminal: int, process: subprocess.Popen[bytes]) -> str:
    """Everything that is written to it."""
    found, deadline = bytearray(), time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # nobody has it open any more
            break
        if not data:
            break
        found += data
    os.close(terminal)
    return found.decode(errors="replace")
