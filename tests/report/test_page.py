"""The report as one HTML file: what is in it, how large it is, and what a real browser makes of it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from resilient.report.account import read_account
from resilient.report.page.page import page
from resilient.report.page.scales import FULL, Scale, thinned
from resilient.report.page.step_times import durations_of_steps
from resilient.report.tracks import Track
from tests.report.browser import look
from tests.report.histories import EPOCH, History
from tests.report.test_ledger import steps

HOSTILE = "<img src=x onerror=parent.document.title='hacked'>"
SCRIPT = "</script><script>parent.document.title='hacked'</script>"


def eventful(root: Path) -> str:
    """The page of a run that was killed, hung and rolled back, and in which everything that can be named is named so
    that it would run if it were not escaped.
    """
    history = History().begins(0).launches(1, 0).trains(3, steps(1, 40, 3), 0)
    history.spent(44, 0, 40, attaching=2.5, ready=3, stepped=43, fetching=2, stalled=1)
    history.add(20, "Persisted", "note", data={"step": 10, "bytes": 5_000_000, "seconds": 0.5})
    history.add(20, "Uploaded", "note", data={"step": 10, "bytes": 5_000_000, "seconds": 2.5})
    history.fails(44, 1, 40, SCRIPT).launches(45, 1, 30, HOSTILE).trains(46, steps(31, 60, 46), 1)
    history.tracks[1].add(61, EPOCH + 77, {"loss": math.nan})
    history.spent(80, 1, 61, attaching=45.5, ready=46, stepped=77)
    history.add(80, "SaveLineage", "decision", data={"lineage": {"pending": True}})
    history.add(80, "KillWorkers", "decision", data={"reason": "rollback"}).phase(80.5, "choosing", "WorkerExited")
    history.incident(80.5, 2, 61, "divergence", 1)
    history.launches(81, 2, 20, "local").trains(82, steps(21, 50, 82), 2)
    history.spent(112, 2, 50, attaching=81.5, ready=82, stepped=112)
    history.phase(112, "flushing", "WorkerExited").ends(113, 84)
    paths = history.write(root / HOSTILE)
    (paths.root / "status.json").write_text(
        json.dumps({"state": "ended", "step": 50, "total": 90, "round": 2, "exit_code": 84, "diagnosis": SCRIPT})
    )
    (paths.incident(1) / "stacks").mkdir(parents=True)
    (paths.incident(1) / "rank-00000.log").write_text(f"the end of the log {SCRIPT}{HOSTILE}")
    (paths.incident(1) / "incident.json").write_text(json.dumps({"evidence": [HOSTILE]}))
    return page(read_account(paths))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return eventful(tmp_path_factory.mktemp("page"))


class Reader(HTMLParser):
    """Every element with its attributes, and those that are open where it should have been closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop() != tag:
            self.wrong.append(tag)


def test_it_is_well_formed_and_asks_nobody_for_anything(made: str) -> None:
    found = Reader(made)
    assert not found.wrong
    assert not found.open
    assert "img" not in {tag for tag, _ in found.elements}, "nothing that the run is called or says is an element"
    for tag, attributes in found.elements:
        assert tag not in {"link", "iframe", "object", "embed", "form", "base"}
        assert not {"src", "srcset", "action", "data"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("href") or "#").startswith("#"), tag
    assert not re.search(r"url\(|@import|https?:", re.sub(r"<pre.*?</pre>", "", made, flags=re.DOTALL))


def test_every_kind_of_step_is_drawn(made: str) -> None:
    for kind in ("kept", "discarded", "redone"):
        assert f'class="line {kind}"' in made
    assert made.count('class="mark broken"') >= 1, "the value that is not finite is marked"


_LOOK = """
const text = (element) => (element.getAttribute("aria-label") || element.textContent || "").trim();
const controls = [...page.querySelectorAll("a, button, input, summary, [tabindex], [role=img], fieldset")];
const name = (element) => text(element) || [...(element.labels || [])].map(text).join("")
  || (element.querySelector("legend") ? text(element.querySelector("legend")) : "");
const nameless = controls.filter((element) => !name(element)).map((element) => element.outerHTML.slice(0, 80));
const wide = [...page.querySelectorAll("body *")].filter((element) =>
  element.getBoundingClientRect().right > view.innerWidth + 1 && !element.closest(".scroll, pre, svg, .told")
  && getComputedStyle(element).position !== "absolute").map((element) => element.className || element.tagName);
const flag = page.querySelector("a.flag"), incident = page.getElementById("incident-1");
const folded = !incident.open;
page.querySelector('a.flag[href="#incident-1"]').click();
const areas = [...page.querySelectorAll('[data-plot="loss"]')], output = page.getElementById("loss-readout");
const press = (key) => { areas[0].dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles: true }));
  return output.textContent; };
const read = [press("Home"), press("ArrowRight"), press("End")];
const log = page.querySelector('input[value="1"]');
log.click();
const hidden = areas.map((area) => area.parentElement.hidden);
const colours = ["html", ".state", ".figures dd", "caption", ".count"].map((selector) => {
  const style = view.getComputedStyle(page.querySelector(selector));
  return [selector, style.color];
});
return { controls: controls.length, nameless, wide, overflow: page.documentElement.scrollWidth - view.innerWidth,
  folded, read, hidden, colours, paper: view.getComputedStyle(page.documentElement).backgroundColor,
  hacked: document.title, pre: page.querySelector("pre").textContent, heading: page.querySelector("h1").textContent,
  drawn: [...page.querySelectorAll("path.line.kept")].some((line) => line.getTotalLength() > 100) };
"""


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser_as_narrow_as_a_phone(made: str, tmp_path: Path, dark: bool) -> None:
    seen = look(tmp_path, made, _LOOK, width=360, dark=dark)
    assert seen["hacked"] == "", "nothing that was named in the run has run"
    assert SCRIPT in seen["pre"], "it is shown instead"
    assert seen["heading"] == HOSTILE
    assert seen["controls"] > 15
    assert seen["nameless"] == []
    assert seen["wide"] == []
    assert seen["overflow"] <= 0
    assert seen["folded"], "evidence is one click away, and not in the way"
    assert seen["read"] == ["step 1: loss 1", "step 2: loss 0.5", "step 50: loss 0.02"], "arrow keys read the curve off"
    assert seen["hidden"] == [True, False], "the logarithmic picture is shown when it is chosen"
    assert seen["drawn"]
    assert (_luminance(seen["paper"]) < 0.1) == dark
    for selector, colour in seen["colours"]:
        assert _contrast(colour, seen["paper"]) >= 4.5, selector


def test_a_flag_on_the_timeline_opens_its_incident(made: str, tmp_path: Path) -> None:
    script = """
const incident = page.getElementById("incident-2"), before = incident.open;
view.location.hash = "#incident-2";
view.dispatchEvent(new view.HashChangeEvent("hashchange"));
return [before, incident.open];
"""
    assert look(tmp_path, made, script) == [False, True]


def test_a_long_run_has_a_small_page_and_no_spike_is_lost(tmp_path: Path) -> None:
    rounds, per = 50, 1000
    history = History().begins(0)
    at, step, spike = 1.0, 0, 35_001
    for number in range(rounds):
        history.launches(at, number, step, "memory" if number else None)
        track = history.tracks[number] = Track()
        for count in range(1, per + 1):
            track.add(step + count, EPOCH + at + 1 + count * 0.5, {"loss": 99.5 if step + count == spike else 2.0})
        history.phase(at + 1.5, "running", "WorkerProgressed")
        at, step = at + 1 + per * 0.5, step + per
        history.spent(at, number, step, attaching=at - per * 0.5 - 0.5, ready=at - per * 0.5, stepped=at)
        history.fails(at, number + 1, step)
    account = read_account(history.write(tmp_path / "long"))
    text = page(account)
    assert account.step == 50_000
    assert len(text.encode()) < 400_000, "each picture has only so many columns"
    block = re.search(r'<script type="application/json" id="loss-data">(.*?)</script>', text)
    assert block is not None
    assert [spike, 99.5] in json.loads(block[1])["points"]


def test_thinning_keeps_first_last_and_extremes_of_every_column() -> None:
    points = [(float(at), math.sin(at / 50)) for at in range(10_000)]
    points[4321] = (4321.0, 77.0)
    points[1234] = (1234.0, -77.0)
    points[5000] = (5000.0, math.nan)
    thin = thinned(points, Scale(0, 9999), 100)
    assert len(thin) <= 501
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert {points[4321], points[1234]} <= set(thin)
    assert any(math.isnan(value) for _, value in thin)


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 97, False), (1e-5, 3.2, True), (0.031, 0.055, True), (5, 5, False)]
)
def test_ticks_lie_inside_and_are_placed(low: float, high: float, log: bool) -> None:
    scale = Scale(low, high, log)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(low * 0.998 <= tick <= high * 1.002 for tick in ticks)
    assert all(0 <= scale(tick) <= FULL for tick in ticks)


def test_steps_whose_reports_were_left_out_share_the_time() -> None:
    track = Track()
    for step, at in ((1, 0.0), (2, 1.0), (5, 7.0)):
        track.add(step, at, {})
    assert durations_of_steps({0: track}) == [1.0, 2.0]
