"""How long steps took, between two reports of the same round."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from resilient.report.page.markup import Markup, tag
from resilient.report.page.plots import bar, mark, plot
from resilient.report.page.scales import FULL, Scale
from resilient.report.tracks import Track
from resilient.report.words import duration

_BINS = 60


def durations_of_steps(tracks: Mapping[int, Track]) -> list[float]:
    """Seconds of each step, in no order; of one whose report was left out, its share."""
    found: list[float] = []
    for track in tracks.values():
        for index in range(1, len(track.steps)):
            count = track.steps[index] - track.steps[index - 1]
            seconds = track.times[index] - track.times[index - 1]
            if count > 0 and seconds > 0:
                found.append(seconds / count)
    return found


def quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def step_times(tracks: Mapping[int, Track]) -> Markup:
    """A histogram over a logarithmic axis, so that the tail is seen, with its percentiles."""
    ordered = sorted(durations_of_steps(tracks))
    if len(ordered) < 2:
        return tag("p", "Too few steps have been reported.", class_="empty")
    low, high = ordered[0] * 0.97, ordered[-1] * 1.03
    x = Scale(low, high, log=True)
    counts = Counter(min(_BINS - 1, int(x(seconds) * _BINS / FULL)) for seconds in ordered)
    most = max(counts.values())
    y = Scale(0, most * 1.15)
    bars = []
    for index in range(_BINS):
        if count := counts.get(index):
            left, right = FULL * index / _BINS, FULL * (index + 1) / _BINS
            middle = math.exp(math.log(low) + (index + 0.5) / _BINS * (math.log(high) - math.log(low)))
            told = f"about {duration(middle)}: {count:,} steps"
            bars.append(bar(left + 1, right - 1, "fill good", top=FULL - y(count), title=told))
    marks, words = [], []
    for name, part in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        value = quantile(ordered, part)
        words.append(f"{name} {duration(value)}")
        marks.append(mark(x(value), "", "quantile"))
    label = f"Distribution of {len(ordered):,} step times: {', '.join(words)}, longest {duration(ordered[-1])}"
    picture = plot(
        *bars, label=label, x=x, y=y, x_words=duration, y_words=lambda at: f"{at:,.0f}", above=marks, height="low"
    )
    said = f"{', '.join(words)}, longest {duration(ordered[-1])}; of {len(ordered):,} steps, evaluations included."
    return tag("figure", picture, tag("figcaption", said))
