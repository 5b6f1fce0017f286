"""A real browser, which opens a page and says what it makes of it."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_HARNESS = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe><pre id="result"></pre>
<script>
document.getElementById("frame").addEventListener("load", () => {{
  const view = document.getElementById("frame").contentWindow, page = view.document;
  const found = (() => {{ {look} }})();
  document.getElementById("result").textContent = JSON.stringify(found);
}});
</script>"""


def chromium() -> str:
    """Skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    return found


def look(directory: Path, page: str, javascript: str, *, width: int = 360, dark: bool = False) -> Any:
    """Open ``page`` in a frame of that width, and return what the function body ``javascript`` returns there, which
    has it as ``page`` and its window as ``view``.
    """
    harness = directory / "harness.html"
    harness.write_text(_HARNESS.format(width=width, page=html.escape(page), look=javascript), encoding="utf-8")
    command = [
        chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={directory / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1000,1000",
        "--virtual-time-budget=10000",
        "--dump-dom",
        harness.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    result = done.stdout.rpartition('<pre id="result">')[2].partition("</pre>")[0]
    assert result, f"the page did not load:\n{done.stderr[-2000:]}"
    return json.loads(html.unescape(result))
