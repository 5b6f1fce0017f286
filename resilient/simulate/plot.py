"""Plots of a simulation; with the optional extra ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resilient.errors import TargetNotWritable, UsageError
from resilient.simulate.ledger import Bucket
from resilient.simulate.outcome import Outcome
from resilient.simulate.plan import HOUR
from resilient.simulate.sweep import Sweep

SUFFIXES = (".svg", ".png", ".pdf")
_DARK, _RED, _ORANGE = "#08306b", "#cb181d", "#d95f0e"
_MOST_CAUSES = 12


def require_plot(target: Path) -> None:
    """Whether it can be drawn is found out before anything is simulated.

    :raises UsageError: the file has no name that says which format, or matplotlib is not installed.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {target}: the name must end in {', '.join(SUFFIXES)}")
    try:
        import matplotlib as mpl  # noqa: PLC0415  a second of imports, for those who want a plot
    except ImportError:
        raise UsageError("--plot needs matplotlib", "pip install 'resilient[plot]'") from None
    mpl.use("Agg")


def plot(outcome: Outcome, swept: Sweep | None, target: Path) -> None:
    """Lost time by bucket, lost GPU-hours by cause, and the sweep if there is one.

    :raises TargetNotWritable: the file cannot be written.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415  as above

    count = 2 if swept is None else 3
    figure, axes = plt.subplots(1, count, figsize=(6 * count, 4.5), layout="constrained")
    plan = outcome.plan
    figure.suptitle(
        f"{plan.cluster or 'cluster'}: {plan.gpus:,} GPUs, {plan.days:g} days, goodput {outcome.goodput:.2%}, "
        f"{outcome.interruptions:,} interruptions"
    )
    lost = {
        bucket.value: seconds / HOUR
        for bucket, seconds in outcome.buckets.items()
        if bucket is not Bucket.TRAINING and seconds > 0
    }
    _bars(axes[0], lost, _ORANGE, "hours", "Time that was no training")
    _bars(axes[1], dict(list(outcome.gpu_hours_lost.items())[:_MOST_CAUSES]), _RED, "GPU-hours", "Lost, by cause")
    if swept is not None:
        _curve(axes[2], swept)
    try:
        figure.savefig(target, dpi=110)
    except OSError as error:
        raise TargetNotWritable(f"the plot cannot be written to {target}: {error.strerror}") from error
    finally:
        plt.close(figure)


def _bars(axes: Any, values: dict[str, float], color: str, unit: str, title: str) -> None:
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color=color)
    axes.bar_label(bars, fmt=_short, padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.set(xlabel=unit, title=title)
    axes.grid(alpha=0.3, axis="x")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _curve(axes: Any, swept: Sweep) -> None:
    seconds = [trial.seconds for trial in swept.tried]
    axes.plot(seconds, [trial.goodput * 100 for trial in swept.tried], "o-", color=_DARK)
    axes.axvline(swept.rule, color=_RED, linestyle=":", label=f"Young/Daly: {swept.rule:,.0f} s")
    axes.set(xscale="log", xlabel="seconds between durable snapshots", ylabel="goodput [%]", title="How often to save")
    axes.set_xticks(seconds, [f"{interval:,.0f}" for interval in seconds], rotation=45)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
