"""The demo's plot: the same losses, what each incident cost, and a divergence with both of its lineages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resilient.policy.lineage import Lineage
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.metrics_log import Entry, read_metrics, series
from resilient.protocol.paths import RunPaths
from resilient.report.incidents import IncidentReport

PALE, DARK, RED, ORANGE = "#9ecae1", "#08306b", "#cb181d", "#d95f0e"


def plot(
    reference: RunPaths, faulted: RunPaths, poisoned: RunPaths, reports: Sequence[IncidentReport], target: Path
) -> None:
    """Write it to ``target``.

    :param reports: the incidents of ``faulted``.
    """
    import matplotlib as mpl  # noqa: PLC0415  a second of imports that the training must not wait for

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (losses, clock, lineages) = plt.subplots(1, 3, figsize=(19, 5), layout="constrained")
    _plot_losses(losses, reference, faulted, reports)
    _plot_clock(clock, reference, faulted, reports)
    _plot_lineages(lineages, reference, poisoned)
    for axes, place in ((losses, "center right"), (clock, "lower right"), (lineages, "upper right")):
        axes.grid(alpha=0.3)
        axes.legend(loc=place, frameon=False)
    figure.savefig(target, dpi=110)


def _plot_losses(axes: Any, reference: RunPaths, faulted: RunPaths, reports: Sequence[IncidentReport]) -> None:
    """Both loss curves over steps, one hidden below the other."""
    one, other = series(reference.metrics, "loss"), series(faulted.metrics, "loss")
    axes.plot(list(one), list(one.values()), color=PALE, linewidth=5, label="uninterrupted")
    axes.plot(list(other), list(other.values()), color=DARK, linewidth=1, label="killed, preempted, corrupted")
    val = series(faulted.metrics, "val_loss")
    axes.plot(list(val), list(val.values()), "o-", color=ORANGE, markersize=4, linewidth=1, label="validation")
    axes.set(xlabel="step", ylabel="loss [nats per byte]", title="The same losses, bit for bit")
    for report in reports:
        axes.axvline(report.step, color=RED, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{report.number}: {report.failure_class}",
            (report.step, 0.99),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=RED,
            rotation=90,
            ha="left" if report.number % 2 == 0 else "right",
            va="top",
        )


def _plot_clock(axes: Any, reference: RunPaths, faulted: RunPaths, reports: Sequence[IncidentReport]) -> None:
    """Steps over time, with the incidents; a line for each round, broken where a new one begins."""
    for paths, color, width, label in (
        (reference, PALE, 4, "uninterrupted"),
        (faulted, DARK, 1.5, "killed, preempted, corrupted"),
    ):
        entries = list(read_metrics(paths.metrics))
        start = entries[0].metrics.time
        for number in sorted({entry.round for entry in entries}):
            part = [entry.metrics for entry in entries if entry.round == number]
            times = [found.time - start for found in part]
            once = label if number == entries[0].round else None
            axes.plot(times, [found.step for found in part], color=color, linewidth=width, label=once)
    for report in reports:
        axes.plot([report.time - start], [report.step], "x", color=RED)
        axes.annotate(str(report.number), (report.time - start, report.step), fontsize=8, color=RED, va="bottom")
    axes.set(xlabel="wall time [s]", ylabel="step", title="What each incident cost")


def _plot_lineages(axes: Any, reference: RunPaths, poisoned: RunPaths) -> None:
    """The loss that was discarded, and the one that the run went on with."""
    lineage = read_lineage(poisoned)
    one = series(reference.metrics, "loss")
    axes.plot(list(one), list(one.values()), color=PALE, linewidth=3, label="without damage")
    for number, (_, part) in enumerate(_discarded(poisoned, lineage)):
        label = "discarded lineage" if number == 0 else None
        axes.plot(list(part), list(part.values()), color=RED, linewidth=1.2, label=label)
    kept = surviving(poisoned, lineage)
    axes.plot(list(kept), list(kept.values()), color=DARK, linewidth=1, label="surviving lineage")
    for target in sorted({rollback.target for rollback in lineage.rollbacks}):
        axes.axvline(target, color=DARK, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"back to step {target}",
            (target, 0.98),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=DARK,
            rotation=90,
            ha="right",
            va="top",
        )
    axes.set(xlabel="step", ylabel="loss [nats per byte]", title="Damaged samples: found, taken back, left out")


def surviving(paths: RunPaths, lineage: Lineage, name: str = "loss") -> dict[int, float]:
    """A metric by step, of the steps that count in the end."""
    found = {
        entry.metrics.step: entry.metrics.values[name]
        for entry in _reported(paths, name)
        if lineage.holds(entry.metrics.step, entry.round)
    }
    return dict(sorted(found.items()))


def _discarded(paths: RunPaths, lineage: Lineage) -> Iterator[tuple[int, Mapping[int, float]]]:
    """Of each rollback its target and the losses that it discarded, by step, beginning at the target."""
    entries, before = list(_reported(paths, "loss")), -1
    for rollback in lineage.rollbacks:
        part = {
            entry.metrics.step: entry.metrics.values["loss"]
            for entry in entries
            if before < entry.round <= rollback.round and entry.metrics.step >= rollback.target
        }
        yield rollback.target, dict(sorted(part.items()))
        before = rollback.round


def _reported(paths: RunPaths, name: str) -> Iterator[Entry]:
    for entry in read_metrics(paths.metrics):
        if entry.rank == 0 and name in entry.metrics.values:
            yield entry
