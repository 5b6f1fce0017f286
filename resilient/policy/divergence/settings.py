"""What may be set of the divergence detectors: frozen, checked, and plain enough for a configuration schema."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient.errors import ConfigurationError

_LONGEST = 100_000  # of windows and counts: the state is part of every snapshot


@dataclass(frozen=True)
class SpikeSettings:
    """A sudden rise that stays for some steps. Counts are reports of the metric: steps, where it is reported each step.

    :param enabled: look for spikes of this metric.
    :param window: so many accepted values teach how far values scatter.
    :param level_window: the median of so many accepted values is where the metric stands now.
    :param history: no verdict before so many values are accepted.
    :param threshold: a value is high when it lies more than this many scales above the level.
    :param hits: so many high values …
    :param of: … among so many raise the alarm.
    :param armed_threshold: in place of ``threshold`` while the gradient norm is high, if it is lower.
    :param armed_hits: in place of ``hits`` then, if they are fewer.
    :param floor: the scale is never less than this share of what the metric stands for: its level, or what has been
        gained since the start. Keeps quantised, constant and tiny losses from being judged by their last digit.
    :param patience: an alarm becomes a divergence if the metric has not recovered so many reports later.
    :param recovered: so many values in a row near the level end an alarm.
    :param accept_after: a level that stays up for so long after the alarm, with nobody acting on it, is the new normal.
    """

    enabled: bool = True
    window: int = 256
    level_window: int = 16
    history: int = 64
    threshold: float = 6.0
    hits: int = 3
    of: int = 5
    armed_threshold: float = 4.0
    armed_hits: int = 2
    floor: float = 0.005
    patience: int = 30
    recovered: int = 5
    accept_after: int = 500

    def check(self, key: str) -> None:
        """Raise :class:`ConfigurationError` where a value, or two together, make no sense; ``key`` leads here."""
        for name, least in (("window", 8), ("level_window", 1), ("history", 2), ("of", 1), ("recovered", 1)):
            _between(f"{key}.{name}", getattr(self, name), least, _LONGEST)
        _between(f"{key}.hits", self.hits, 1, self.of, "spike.of")
        _between(f"{key}.armed_hits", self.armed_hits, 1, _LONGEST)
        _between(f"{key}.history", self.history, 2, self.window, "spike.window")
        _between(f"{key}.patience", self.patience, 0, _LONGEST)
        _between(f"{key}.accept_after", self.accept_after, self.patience + 1, 10**9)
        _between(f"{key}.threshold", self.threshold, 1.0, 1e6)
        _between(f"{key}.armed_threshold", self.armed_threshold, 1.0, 1e6)
        _between(f"{key}.floor", self.floor, 0.0, 1.0)


@dataclass(frozen=True)
class DriftSettings:
    """A slow rise: the smoothed metric stays above the best it has been. Counts are reports of the metric.

    :param enabled: look for drift of this metric.
    :param smoothing: the smoothed metric is a mean over about so many reports.
    :param margin: so far above the best it is a divergence, as a share of what the metric stands for (see
        ``spike.floor``), and a third as far an alarm …
    :param spreads: … and never less than this many times the scale of single values.
    :param held: for about so many reports: fewer the farther it is above, more where it is just above.
    :param accept_after: a mean that stays up for so long after the alarm, with nobody acting on it, is the new best.
    """

    enabled: bool = True
    smoothing: int = 50
    margin: float = 0.2
    spreads: float = 3.0
    held: int = 15
    accept_after: int = 500

    def check(self, key: str) -> None:
        _between(f"{key}.smoothing", self.smoothing, 1, _LONGEST)
        _between(f"{key}.held", self.held, 1, _LONGEST)
        _between(f"{key}.accept_after", self.accept_after, self.held, 10**9, "drift.held")
        _between(f"{key}.margin", self.margin, 0.0, 1e6)
        _between(f"{key}.spreads", self.spreads, 0.0, 1e6)


@dataclass(frozen=True)
class MetricSettings:
    """One watched metric.

    :param higher_is_worse: true of losses; false of rewards and accuracies, whose fall is the divergence.
    :param nonfinite: so many values in a row that are not finite are a divergence at once; 0 looks away.
    """

    higher_is_worse: bool = True
    nonfinite: int = 1
    spike: SpikeSettings = field(default_factory=SpikeSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)

    def check(self, key: str) -> None:
        _between(f"{key}.nonfinite", self.nonfinite, 0, _LONGEST)
        self.spike.check(f"{key}.spike")
        self.drift.check(f"{key}.drift")


@dataclass(frozen=True)
class NormSettings:
    """The gradient norm. By itself it proves nothing; it lowers the bar for the others and dates the onset.

    :param metric: the name it is reported under; empty looks away.
    :param nonfinite: so many norms in a row that are not finite are a divergence. A loss scaler meets single ones as
        a matter of course and skips the step, and several in a row at the start.
    :param window: so many accepted norms teach how far they scatter.
    :param history: it arms nothing before so many.
    :param threshold: a norm is high when its logarithm lies more than this many scales above the level.
    :param floor: least scale of the logarithm: 0.1 is about a tenth of the norm.
    :param accept_after: so many high norms in a row are the new normal.
    """

    metric: str = "grad_norm"
    nonfinite: int = 25
    window: int = 256
    history: int = 64
    threshold: float = 6.0
    floor: float = 0.1
    accept_after: int = 200

    def check(self, key: str) -> None:
        _between(f"{key}.nonfinite", self.nonfinite, 0, _LONGEST)
        _between(f"{key}.window", self.window, 8, _LONGEST)
        _between(f"{key}.history", self.history, 2, self.window, "grad_norm.window")
        _between(f"{key}.threshold", self.threshold, 1.0, 1e6)
        _between(f"{key}.floor", self.floor, 0.0, 1e6)
        _between(f"{key}.accept_after", self.accept_after, 1, _LONGEST)


@dataclass(frozen=True)
class LadderSettings:
    """What is done about a divergence, one attempt after the other; see :mod:`resilient.policy.divergence.ladder`.

    :param attempts: rollbacks in one episode; the next divergence in it stops the run.
    :param budget: rollbacks in the whole run.
    :param skip: leave out the data between the snapshot and the alarm; false repeats them.
    :param cut_from: the attempt of an episode from which on the learning rate is lowered.
    :param lr_factor: it is multiplied by this, each time.
    :param probation: steps past the verdict without which an episode is not over.
    :param restart_within: where no snapshot is old enough, the run begins anew if what went wrong began within so many
        steps of its beginning; 0 for never.
    """

    attempts: int = 4
    budget: int = 10
    skip: bool = True
    cut_from: int = 3
    lr_factor: float = 0.5
    probation: int = 100
    restart_within: int = 500

    def check(self, key: str) -> None:
        leasts = (("attempts", 0), ("budget", 0), ("cut_from", 1), ("probation", 0), ("restart_within", 0))
        for name, least in leasts:
            _between(f"{key}.{name}", getattr(self, name), least, 10**9)
        _between(f"{key}.lr_factor", self.lr_factor, 1e-6, 1.0)


@dataclass(frozen=True)
class ReplaySettings:
    """Whether the steps before a divergence are run again, to find out if the hardware computed them wrong.

    :param enabled: run them again where that can be done.
    :param max_seconds: what that may take. Where it would take longer by what is known of the steps, it is left out.
    """

    enabled: bool = True
    max_seconds: float = 600.0

    def check(self, key: str) -> None:
        _between(f"{key}.max_seconds", self.max_seconds, 0.0, 1e6)


@dataclass(frozen=True)
class DivergenceSettings:
    """The section ``divergence`` of the configuration.

    :param enabled: look for divergence at all.
    :param respond: act on it; false writes down what would have been done.
    :param warmup_steps: no verdict but ``nonfinite`` so soon after the first step seen, or after a phase change.
    :param metrics: what is watched, by the name it is reported under.
    :param grad_norm: the gradient norm's part in it.
    :param lr_metric: the learning rate's name, if it is reported: while it rises, drift is not judged.
    :param good_after: a snapshot is good once so many steps after it were taken without an alarm.
    :param margin: so many steps before an onset are not trusted either, and the data of so many after the alarm are
        skipped with the rest.
    :param ladder: what is done about it.
    :param replay: whether the hardware is asked first.
    """

    enabled: bool = True
    respond: bool = True
    warmup_steps: int = 100
    metrics: dict[str, MetricSettings] = field(default_factory=lambda: {"loss": MetricSettings()})
    grad_norm: NormSettings = field(default_factory=NormSettings)
    lr_metric: str = "lr"
    good_after: int = 100
    margin: int = 10
    ladder: LadderSettings = field(default_factory=LadderSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)

    def __post_init__(self) -> None:
        _between("divergence.warmup_steps", self.warmup_steps, 0, 10**9)
        _between("divergence.good_after", self.good_after, 0, 10**9)
        _between("divergence.margin", self.margin, 0, 10**9)
        self.grad_norm.check("divergence.grad_norm")
        self.ladder.check("divergence.ladder")
        self.replay.check("divergence.replay")
        for name, metric in self.metrics.items():
            metric.check(f"divergence.metrics.{name}")
            if name == self.grad_norm.metric:
                raise ConfigurationError(
                    f"divergence.metrics.{name} and divergence.grad_norm.metric are the same metric",
                    "watch it as one of the two: set divergence.grad_norm.metric='' or remove the other",
                )

    @classmethod
    def from_mapping(cls, tree: Mapping[str, Any]) -> DivergenceSettings:
        """From nested mappings, as a preset's file has them. What is not said keeps its default, in each metric too;
        raises :class:`ConfigurationError` where a key is unknown or a value has the wrong type.
        """
        built: DivergenceSettings = _build(cls, tree, "divergence")
        return built


def _build(kind: Any, tree: Any, key: str) -> Any:
    """``tree`` as an instance of ``kind``: a settings class, a dictionary of them, or a plain value."""
    if typing.get_origin(kind) is dict:
        item_kind = typing.get_args(kind)[1]
        return {str(name): _build(item_kind, item, f"{key}.{name}") for name, item in _mapping(tree, key).items()}
    if not dataclasses.is_dataclass(kind):
        wanted = (int, float) if kind is float else (kind,)
        if type(tree) not in wanted:  # a bool is no int here
            raise ConfigurationError(f"{key} must be of type {kind.__name__}, not {tree!r}", f"change {key}")
        return kind(tree)
    kinds = typing.get_type_hints(kind)
    for name in _mapping(tree, key):
        if name not in kinds:
            close = difflib.get_close_matches(str(name), kinds, 1, cutoff=0.5)
            known = f"did you mean {key}.{close[0]}?" if close else f"known are: {', '.join(kinds)}"
            raise ConfigurationError(f"{key}.{name} is not a known key", known)
    make = typing.cast("type[Any]", kind)
    return make(**{name: _build(kinds[name], item, f"{key}.{name}") for name, item in tree.items()})


def _mapping(tree: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(tree, Mapping):
        raise ConfigurationError(f"{key} must be a section, not {tree!r}", f"write its keys below {key}")
    return tree


def _between(key: str, value: float, least: float, most: float, bound: str = "") -> None:
    if not least <= value <= most:  # false of nan too
        beside = f" ({bound})" if bound else ""
        raise ConfigurationError(f"{key} must lie between {least:g} and {most:g}{beside}, not {value}", f"change {key}")
