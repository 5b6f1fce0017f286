"""A picture with axes. Lines are drawn in SVG that is stretched to the page; words are HTML on top of it, so that they
are as legible on a phone as they are on a desk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from resilient.report.page.markup import Markup, tag, together
from resilient.report.page.scales import FULL, Scale
from resilient.report.words import number

Points = Sequence[tuple[float, float]]


def plot(
    *shapes: Markup,
    label: str,
    x: Scale,
    y: Scale,
    x_words: Callable[[float], str] = number,
    y_words: Callable[[float], str] = number,
    above: Iterable[Markup] = (),
    hidden: bool = False,
    name: str | None = None,
    height: str = "",
) -> Markup:
    """A picture of these shapes.

    :param label: what is to be seen, for those who do not see it.
    :param above: what is laid on top of it.
    :param name: by which the page's script knows it.
    """
    ticks_x, ticks_y = x.ticks(), y.ticks(4)
    lines = [tag("line", x1=0, x2=FULL, y1=_y(y, at), y2=_y(y, at), class_="grid") for at in ticks_y]
    drawing = tag(
        "svg",
        *lines,
        *shapes,
        viewBox=f"0 0 {FULL:g} {FULL:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    words = [
        tag("span", x_words(at), class_=f"tick x{_edge(x(at))}", style=f"left:{x(at) / 10:.2f}%") for at in ticks_x
    ]
    words += [tag("span", y_words(at), class_="tick y", style=f"top:{_y(y, at) / 10:.2f}%") for at in ticks_y]
    area = tag("div", drawing, *words, *above, class_=f"area {height}".strip(), data_plot=name)
    return tag("div", area, class_="plot", hidden=True if hidden else None)


def line(points: Points, x: Scale, y: Scale, kind: str) -> Markup:
    """A line, broken where a value is not finite."""
    pieces: list[str] = []
    down = False
    for at, value in points:
        if not math.isfinite(value):
            down = False
            continue
        pieces.append(f"{'L' if down else 'M'}{x(at):.1f} {_y(y, value):.1f}")
        down = True
    return tag("path", d="".join(pieces), class_=f"line {kind}") if pieces else Markup("")


def bar(left: float, right: float, kind: str, *, top: float, bottom: float = FULL, title: str = "") -> Markup:
    """A rectangle, in the picture's units."""
    inside = (tag("title", title),) if title else ()
    place = {"x": f"{left:.2f}", "y": f"{top:.2f}", "width": f"{max(right - left, 0.3):.2f}"}
    return tag("rect", *inside, **place, height=f"{bottom - top:.2f}", class_=kind)


def mark(left: float, text: object, kind: str, top: float | None = None) -> Markup:
    """Something small and not stretched, at a place in per mille."""
    place = f"left:{left / 10:.2f}%" + (f";top:{top / 10:.2f}%" if top is not None else "")
    return tag("span", text, class_=f"mark {kind}", style=place)


def legend(*entries: tuple[str, str]) -> Markup:
    """Kinds and what they mean."""
    return tag(
        "p", together(*(tag("span", tag("i", class_=f"key {kind}"), text) for kind, text in entries)), class_="legend"
    )


def _edge(at: float) -> str:
    return " left" if at < 30 else " right" if at > 970 else ""


def _y(scale: Scale, value: float) -> float:
    return FULL - scale(value)
