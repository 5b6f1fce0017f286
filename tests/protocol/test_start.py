"""Our processes are started in the user's directory, and import nothing from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resilient.protocol.start import python_command


def test_modules_of_the_working_directory_stand_for_nothing_in_a_helper(tmp_path: Path) -> None:
    for name in ("queue", "token", "types", "selectors", "copy", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user\\'s was imported')\n")
    done = subprocess.run(
        python_command("resilient.cli", "--version"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resilient ")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no such variable")
def test_python_that_was_told_to_be_safe_keeps_its_first_entry() -> None:
    done = subprocess.run(
        python_command("resilient.cli", "--version"), env={"PYTHONSAFEPATH": "1"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
