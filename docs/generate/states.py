"""The life of a run: the state machine's table as a picture, as a table and in words.

The picture has the edges of :data:`resilient.policy.machine.TABLE` and no other; what is laid out here is where the
phases stand and which way an edge goes. An edge that nobody has laid out is drawn as a straight line.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from generate.docstrings import Docstring
from generate.markup import code, front_matter, table
from resilient.policy import decisions, events, machine
from resilient.policy.machine import TABLE
from resilient.policy.state import Phase

_WIDTH, _HEIGHT = 980, 690
_HALF_WIDTH, _HALF_HEIGHT = 56, 18
_PLACES: Mapping[str, tuple[int, int]] = {
    "new": (490, 40),
    "waiting": (120, 130),
    "choosing": (490, 130),
    "restoring": (850, 130),
    "replaying": (120, 235),
    "starting": (430, 265),
    "running": (430, 340),
    "dumping": (640, 302),
    "clearing": (120, 345),
    "stopping": (430, 465),
    "flushing": (490, 568),
    "ended": (490, 655),
}
_UP = "a round is up"
_GROUPS: Mapping[str, tuple[frozenset[str], tuple[int, int, int, int]]] = {
    _UP: (frozenset({"starting", "running", "dumping"}), (350, 222, 370, 160)),
}
"""Phases that leave for the same phases: those edges are drawn once, from the border around them."""

_ROUTES: Mapping[tuple[str, str], str] = {
    ("new", "flushing"): "M546,40 H960 V582 H550",
    ("choosing", "starting"): "M470,148 L440,243",
    ("choosing", "restoring"): "M546,122 H790",
    ("restoring", "choosing"): "M794,134 H550",
    ("choosing", "flushing"): "M546,145 H748 V556 H550",
    ("choosing", "ended"): "M520,112 V92 H932 V655 H550",
    ("restoring", "ended"): "M906,130 H932 V655 H550",
    ("restoring", "flushing"): "M880,148 V569 H550",
    ("restoring", "starting"): "M810,148 L490,258",
    ("waiting", "choosing"): "M176,130 H430",
    ("replaying", "choosing"): "M176,226 L434,144",
    ("clearing", "choosing"): "M176,338 C300,280 300,200 448,150",
    ("clearing", "replaying"): "M120,327 V257",
    ("clearing", "waiting"): "M64,338 H46 V137 H60",
    ("clearing", "flushing"): "M130,363 C160,480 300,550 430,560",
    ("replaying", "flushing"): "M64,235 H30 V571 H430",
    ("waiting", "flushing"): "M64,124 H14 V582 H430",
    (_UP, "choosing"): "M580,222 L532,152",
    (_UP, "waiting"): "M350,240 L180,140",
    (_UP, "replaying"): "M350,300 L180,244",
    (_UP, "clearing"): "M350,348 H180",
    (_UP, "stopping"): "M430,382 V443",
    (_UP, "flushing"): "M600,382 L528,546",
    ("starting", "running"): "M430,283 V318",
    ("starting", "dumping"): "M486,262 L580,290",
    ("dumping", "starting"): "M590,284 L490,276",
    ("running", "dumping"): "M486,344 L580,314",
    ("dumping", "running"): "M590,320 L490,332",
    ("stopping", "clearing"): "M374,458 L176,360",
    ("stopping", "flushing"): "M442,483 L472,546",
}
_LABELS: Mapping[tuple[str, str], tuple[int, int, str]] = {
    ("new", "choosing"): (498, 84, "start"),
    ("choosing", "starting"): (462, 196, "start"),
    ("choosing", "restoring"): (668, 114, "middle"),
    ("restoring", "starting"): (690, 196, "start"),
    ("waiting", "choosing"): (300, 122, "middle"),
    ("replaying", "choosing"): (190, 206, "start"),
    (_UP, "stopping"): (438, 418, "start"),
    ("starting", "running"): (438, 306, "start"),
    ("running", "dumping"): (540, 346, "start"),
    ("stopping", "flushing"): (470, 512, "start"),
    ("flushing", "ended"): (498, 618, "start"),
}
_LAST = frozenset({"flushing", "ended"})


def page() -> str:
    said = [
        front_matter("Life of a run", "The state machine that decides about a run, from its own table.", hide="toc"),
        _INTRODUCTION,
    ]
    said += [
        f'<div class="diagram">{drawing()}</div>\n',
        _LEGEND,
        "## What the phases are for { #phases }\n",
        _theory(),
    ]
    said += ["\n## Every edge { #edges }\n", table(("from", "to", "on"), _edges()), ""]
    said += [
        "\n## Events { #events }\n",
        "What the supervisor tells the decision core. They are in the journal as they are.\n",
    ]
    said += [table(("event", "when"), _described(events, events.Event)), ""]
    said += ["\n## Decisions { #decisions }\n", "What it wants done. These are in the journal, too.\n"]
    said += [table(("decision", "what"), _described(decisions, decisions.Decision)), ""]
    return "\n".join(said)


_INTRODUCTION = """
All decisions about a run are taken by one pure function, `decide(state, event, now)`, over one table. The supervisor
feeds events in and carries out what comes back; both are written to the [journal](formats.md#journal), so `resilient
replay` can take every decision again. This picture and the tables below are drawn from that table.
"""

_LEGEND = """
Edges from the border are those of every phase inside it. Lighter ones lead to the end. The events of each edge are
under the pointer, and in [the table below](#edges).
"""


def edges() -> dict[tuple[str, str], list[str]]:
    """Names of the events of each edge from one phase to another."""
    found: dict[tuple[str, str], list[str]] = {}
    for phase, rows in TABLE.items():
        for event, row in rows.items():
            for target in sorted(row.targets - {phase}, key=lambda target: target.value):
                found.setdefault((phase.value, target.value), []).append(event.__name__)
    return found


def lifted() -> dict[tuple[str, str], list[str]]:
    """The same with what all phases of a group have in common as edges of the group."""
    found = edges()
    for name, (members, _) in _GROUPS.items():
        for target in {phase.value for phase in Phase} - members:
            if all((member, target) in found for member in members):
                names = [event for member in sorted(members) for event in found.pop((member, target))]
                found[name, target] = list(dict.fromkeys(names))
    return found


def drawing() -> str:
    """The picture as one line of SVG, in the colours of the page."""
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="State diagram of a run">',
        "<defs>",
        *(
            f'<marker id="arrow-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path class="{kind}" d="M0,0 L8,4 L0,8 z"/></marker>'
            for kind in ("head", "last-head")
        ),
        "</defs>",
    ]
    for name, (_, (x, y, width, height)) in _GROUPS.items():
        parts.append(f'<rect class="group" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>')
        parts.append(
            f'<text class="group-name" x="{x + width - 10}" y="{y + height - 10}" text-anchor="end">{name}</text>'
        )
    drawn = lifted()
    parts += [_edge(*ends, names) for ends, names in drawn.items()]
    parts += [_phase(name, x, y) for name, (x, y) in _PLACES.items()]
    parts += [_label(ends, drawn[ends]) for ends in _LABELS if ends in drawn]
    return "".join([*parts, "</svg>"])


def _edge(source: str, target: str, names: list[str]) -> str:
    path = _ROUTES.get((source, target)) or _straight(source, target)
    kind, head = ("edge last", "last-head") if target in _LAST else ("edge", "head")
    title = html.escape(f"{source} → {target}: {', '.join(names)}")
    return f'<g><title>{title}</title><path class="{kind}" d="{path}" marker-end="url(#arrow-{head})"/></g>'


def _straight(source: str, target: str) -> str:
    """From border to border, as the crow flies."""
    (x1, y1), (x2, y2) = _middle(source), _middle(target)
    dx, dy = x2 - x1, y2 - y1
    part = min(_HALF_WIDTH / abs(dx) if dx else 1.0, _HALF_HEIGHT / abs(dy) if dy else 1.0, 0.5)
    return f"M{x1 + part * dx:g},{y1 + part * dy:g} L{x2 - part * dx:g},{y2 - part * dy:g}"


def _middle(name: str) -> tuple[float, float]:
    if name in _GROUPS:
        x, y, width, height = _GROUPS[name][1]
        return x + width / 2, y + height / 2
    return _PLACES[name]


def _phase(name: str, x: int, y: int) -> str:
    corner, size = (x - _HALF_WIDTH, y - _HALF_HEIGHT), (2 * _HALF_WIDTH, 2 * _HALF_HEIGHT)
    box = f'<rect x="{corner[0]}" y="{corner[1]}" width="{size[0]}" height="{size[1]}" rx="8"/>'
    kind = "phase last" if name in _LAST else "phase"
    return f'<g class="{kind}">{box}<text x="{x}" y="{y + 5}" text-anchor="middle">{name}</text></g>'


def _label(ends: tuple[str, str], names: list[str]) -> str:
    x, y, anchor = _LABELS[ends]
    return f'<text class="event" x="{x}" y="{y}" text-anchor="{anchor}">{", ".join(names)}</text>'


def _theory() -> str:
    """The module's own account of it, without its heading."""
    text = Docstring.of(machine).text
    return text.partition("-------------------")[2].strip()


def _edges() -> list[tuple[str, str, str]]:
    return [(source, target, ", ".join(map(code, names))) for (source, target), names in edges().items()]


def _described(module: object, base: type) -> list[tuple[str, str]]:
    kinds = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, base)]
    return [(code(kind.__name__), Docstring.of(kind).summary) for kind in kinds if kind is not base]
