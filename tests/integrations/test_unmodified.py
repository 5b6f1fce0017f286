"""Scripts that know nothing of us run to their end under ``conf=script``, and are seen to make steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.protocol.board import Word
from tests.docs.pages import DOCS, blocks, side
from tests.run.harness import Workspace
from tests.run.test_scripts import script

WITHOUT = {
    "lightning": ("plugins=[L.pytorch.plugins.environments.SLURMEnvironment(auto_requeue=True)]", "logger=False"),
    "hf-trainer": ("resume_from_checkpoint=True", ""),
}


@pytest.mark.parametrize(("page", "library"), [("lightning", "lightning"), ("hf-trainer", "transformers")])
def test_the_script_before_its_migration(workspace: Workspace, tmp_path: Path, page: str, library: str) -> None:
    pytest.importorskip(library)
    (diff,) = blocks((DOCS / "migrate" / f"from-{page}.md").read_text(), "diff")
    (tmp_path / "sources").mkdir()
    source = tmp_path / "sources" / "plain.py"
    source.write_text(side(diff, "+").replace(*WITHOUT[page]).replace(', ckpt_path="last"', ""))
    case = script(workspace, source)
    running = case.start()
    running.wait_for_step(20)
    assert running.target.read(Word.PID)
    assert running.wait() == 0, case.output()
    assert case.incidents() == []
