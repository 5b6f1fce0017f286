"""What the pages on migration show is Python on both sides, of names that exist, and configurations that are taken."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import resilient
from resilient.config import load
from tests.docs.pages import DOCS, blocks, side

MIGRATE = DOCS / "migrate"
PAGES = sorted(MIGRATE.glob("*.md"))


def test_there_is_a_page_for_each() -> None:
    assert [page.stem for page in PAGES] == ["from-hf-trainer", "from-lightning", "from-submitit", "from-torchrun"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_both_sides_are_python_and_what_is_ours_exists(page: Path) -> None:
    (diff,) = blocks(page.read_text(), "diff")
    compile(side(diff, "+"), page.name, "exec")
    after = ast.parse(side(diff, "-"))
    used = [node.attr for node in ast.walk(after) if isinstance(node, ast.Attribute) and _is_ours(node.value)]
    assert set(used) <= set(resilient.__all__)
    imported = [
        node for node in ast.walk(after) if isinstance(node, ast.ImportFrom) and "resilient" in str(node.module)
    ]
    assert used or imported
    for node in imported:
        framework = str(node.module).rpartition(".")[2]
        if importlib.util.find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
        module = importlib.import_module(str(node.module))
        assert all(hasattr(module, name.name) for name in node.names)


def _is_ours(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "resilient"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(), "yaml")], ids=lambda page: page.stem
)
def test_the_configuration_is_taken(page: Path, tmp_path: Path) -> None:
    (text,) = blocks(page.read_text(), "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "train.py").touch()
    assert load(str(tmp_path / "mine.yaml"), []).config.worker.script == "train.py"


def test_the_script_of_the_page_on_submitit_runs_to_its_end(tmp_path: Path) -> None:
    (diff,) = blocks((MIGRATE / "from-submitit.md").read_text(), "diff")
    (tmp_path / "train.py").write_text(side(diff, "-").replace("total=1000", "total=5"))
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "train" / "snapshots" / "step-000000005").is_dir()
