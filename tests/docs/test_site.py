"""The site: it is built without a warning, a link that leads nowhere is one, and it loads nothing from anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(site),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


class Reader(HTMLParser):
    """What a page loads, and what it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += filter(None, [found.get("id")])
        if tag in LOADED and found.get("rel") != "canonical":
            self.loaded += filter(None, [found.get(LOADED[tag])])


def test_all_pages_are_there_and_nothing_else_is(site: Path) -> None:
    made = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    written = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert written <= made
    assert {
        f"reference/{name}.html" for name in ("configuration", "commands", "exit-codes", "failures", "python")
    } <= made
    assert not list(site.rglob("*.py"))


def test_nothing_is_loaded_from_anywhere_else(site: Path) -> None:
    for page in site.rglob("*.html"):
        for place in Reader(page).loaded:
            assert "//" not in place, f"{page.name}: {place}"
            if page.name != "404.html":
                assert (page.parent / unquote(place.partition("?")[0])).exists(), f"{page.name}: {place}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", sheet.read_text()), sheet.name


def test_no_anchor_is_there_twice(site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        ids = [name for name in Reader(page).ids if not name.startswith("__")]
        assert len(ids) == len(set(ids)), f"{page.name}: {sorted({name for name in ids if ids.count(name) > 1})}"


def test_nothing_that_was_to_be_filled_in_is_left(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.search(r"<!-- (section|format):|:(func|class|param)[: `]", page.read_text()), page.name


def test_links_that_lead_nowhere_end_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Page\n\n[a](nowhere.md) [b](other.md#nowhere) [c](#here)\n")
    (docs / "other.md").write_text("# Other\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {docs}\nhooks: []\nnav: [index.md, other.md]\nextra_css: []\n"
        "plugins: []\ntheme: {name: mkdocs}\n"
    )
    done = build(config, tmp_path / "site")
    assert done.returncode == 1
    assert "3 warnings" in done.stdout, done.stderr
