"""The worker's beginning, and how the script's end looks to a person."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resilient.protocol.launch import WorkerError

RUN = """
import sys
from pathlib import Path
from resilient.protocol.launch import LaunchSpec
from resilient.worker.bootstrap import run_script
place = Path(sys.argv[1])
spec = dict(rank=0, script=str(place / "wrong.py"), module=None, arguments=(), directory=str(place), environment={})
sys.exit(run_script(LaunchSpec(**spec, log="", error_file=str(place / "error.json"))))
"""


@pytest.mark.parametrize("source", ["def f(:\n    pass\n", "def f():\n    raise KeyError(3)\n\n\nf()\n"])
def test_error_is_shown_as_python_shows_it(tmp_path: Path, source: str) -> None:
    script = tmp_path / "wrong.py"
    script.write_text(source)
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    ours = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ours.returncode == 1
    assert ours.stderr == plain.stderr
    error = WorkerError.read(tmp_path / "error.json")
    assert error is not None
    assert error.traceback == plain.stderr
