"""Commands, settings and code on the pages, and in the README, are those that there are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from generate.configuration import all_keys

import resilient as package
from resilient import cli, submit_cli
from resilient.config import Config, expand_sweep, load
from resilient.errors import ConfigurationError
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, blocks, commands, inline, links, side

KINDS = {key.path: key.kind for key in all_keys()}
SECTIONS = {path.partition(".")[0] for path in KINDS if "." in path}
BUILT_IN = {path.stem for path in (DOCS.parent / "conf").glob("*.yaml")}
CONFIGURED = {"train", "submit", "drill", "doctor"}
NOT_OF_A_CONFIGURATION = re.compile(r"^(conf|from|fault|at|seed|steps|rank|what|bit|factor|cluster)=")
MINE = """
worker: {script: train.py}
train: {lr: 1.0, batch_size: 8, seed: 0, steps: 100}
"""
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS.parent)))


def test_every_command_is_one_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text(MINE)
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    found = {tuple(words): page.name for page in PAGES for words in commands(page.read_text())}
    assert len(found) > 60
    for told, page in found.items():
        words = [word for word in told if "…" not in word]
        if len(words) < len(told) or len(words) == 1:
            assert words[0] in {"COMMAND", "train", *cli._MODULES}, (page, told)
        else:
            _require_taken(words, page, capsys)


def _require_taken(words: list[str], page: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        options = cli._parse(words)
    except SystemExit as end:
        pytest.fail(f"{page}: resilient {' '.join(words)}: {end.code}, {capsys.readouterr().err}") if end.code else None
        return  # --help, --version
    if options.command not in CONFIGURED:
        return
    named = [word.removeprefix("conf=") for word in options.overrides if word.startswith("conf=")]
    overrides = [word for word in options.overrides if not NOT_OF_A_CONFIGURATION.match(word)]
    for conf in named:
        if not (conf in BUILT_IN or conf == "mine"):
            assert conf == "path/to/x.yaml" or conf.isupper() or conf == "X", conf
            continue
        try:
            if options.command == "submit":
                submit_cli._prepared(conf, overrides, multirun=options.multirun, arguments=options.arguments)
                continue
            for _, job in expand_sweep(overrides):
                load(conf, job, arguments=options.arguments)
        except ConfigurationError as error:
            pytest.fail(f"{page}: resilient {' '.join(words)}: {error}")


@by_name
def test_every_key_that_is_named_is_a_key(page: Path) -> None:
    for text in inline(page.read_text()):
        for word in re.findall(r"(?<![\w./-])\+?([a-z_]+(?:\.\w+)+)(?==|$)", text):
            section = word.partition(".")[0]
            if section not in SECTIONS or section == "train" or word.endswith((".py", ".md", ".yaml", ".json")):
                continue
            of_the_api = section == "run" and word.partition(".")[2] in _ATTRIBUTES | set(vars(package.Run))
            assert of_the_api or _known(word), f"{page.name}: {word}"


def _known(key: str) -> bool:
    if any(known == key or known.startswith(f"{key}.") for known in KINDS):
        return True
    key = re.sub(r"^(divergence\.metrics)\.\w+", r"\1.NAME", key)
    return key in KINDS or KINDS.get(key.rpartition(".")[0], "").startswith("mapping")


@by_name
def test_code_is_code_and_configurations_are_taken(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    for block in blocks(text, "python"):
        tree = compile(block, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        assert {node.attr for node in used if node.value.id == "resilient"} <= set(package.__all__)  # type: ignore[attr-defined]
        assert all(hasattr(package.Run, node.attr) or node.attr in _ATTRIBUTES for node in used if _is(node, "run"))
    for diff in blocks(text, "diff"):
        compile(side(diff, "+"), page.name, "exec")
        compile(side(diff, "-"), page.name, "exec")
    for number, block in enumerate(blocks(text, "yaml")):
        file = tmp_path / f"c{number}.yaml"
        file.write_text(block if "worker:" in block else f"worker: {{script: train.py}}\n{block}")
        assert isinstance(load(str(file), []).config, Config)


_ATTRIBUTES = {"step", "finished", "left_early", "lr_factor", "is_replay", "start_step"}


def _is(node: ast.Attribute, name: str) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == name


def test_links_between_files_of_the_repository_lead_somewhere() -> None:
    """mkdocs sees to those of its own pages."""
    for page in [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("examples/*/README.md")]:
        for file, anchor in links(page):
            assert file.exists(), f"{page}: {file}"
            assert not anchor or anchor in anchors(file), f"{page}: {file}#{anchor}"


def test_every_page_that_is_written_by_hand_is_found_from_the_readme() -> None:
    """All but the site's own front, and those that are only filled in from the READMEs."""
    filled = {DOCS / "index.md", DOCS / "benchmarks.md", DOCS / "guides" / "integrations.md"}
    assert set(DOCS.rglob("*.md")) - {file for file, _ in links(ROOT / "README.md")} == filled


def test_the_script_with_the_five_lines_runs_and_resumes(tmp_path: Path) -> None:
    (diff,) = blocks((DOCS / "start" / "five-lines.md").read_text(), "diff")
    script = tmp_path / "train.py"
    for total in (3, 5):
        script.write_text(side(diff, "-").replace("10 * len(loader)", str(total)))
        done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "runs" / "train" / "snapshots" / f"step-00000000{total}").is_dir()
    added = [line for line in diff.splitlines() if re.match(r"\+.*\b(resilient|run)\b", line)]
    assert len(added) == 4, "what is said of it is true"
