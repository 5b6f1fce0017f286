"""The divergence detectors over a curve again, with other settings: which alarms would have come.

The curve is what it is: what would have been done about a divergence, and how the training would have gone on then, is
not known. So the detectors look on, as with ``divergence.respond=false``, and a level that stays is the new normal
after a while.
"""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from resilient.errors import ConfigurationError, UsageError
from resilient.policy.divergence import Alarm, Divergence, DivergenceSettings, Finding, MonitorState
from resilient.report.curves import Curve
from resilient.supervisor.detector_history import of_lineage
from resilient.supervisor.divergence_sensor import DivergenceSensor, folded

_SECTION = "divergence"
_LOSS = "loss"


@dataclass(frozen=True)
class Trial:
    """Settings to try.

    :param changes: what is different, as it was given; empty for the settings as they are.
    """

    changes: tuple[str, ...]
    settings: DivergenceSettings


@dataclass(frozen=True)
class Outcome:
    """What the detectors find with them.

    :param findings: each with the round in which it was found.
    """

    trial: Trial
    findings: tuple[tuple[int, Finding], ...]

    @property
    def alarms(self) -> int:
        return sum(isinstance(finding, Alarm) for _, finding in self.findings)

    @property
    def divergences(self) -> int:
        return sum(isinstance(finding, Divergence) for _, finding in self.findings)


def trials(tree: Mapping[str, Any], changes: Sequence[str], presets: Mapping[str, Mapping[str, Any]]) -> list[Trial]:
    """The settings as they are, and each combination of the changes: ``key=3,4,6`` are three.

    :param tree: the section ``divergence``, as far as anything is said there.
    :param presets: what may stand in ``divergence=NAME``.
    :raises ConfigurationError: a key is unknown or a value wrong.
    :raises UsageError: a change has no value.
    """
    found = [Trial((), DivergenceSettings.from_mapping(tree))]
    for chosen in itertools.product(*map(_variants, changes)):
        if chosen:
            body = copy.deepcopy(dict(tree))
            for change in chosen:
                _apply(body, change, presets)
            found.append(Trial(tuple(chosen), DivergenceSettings.from_mapping(body)))
    return found


def _variants(change: str) -> list[str]:
    key, equals, text = change.partition("=")
    if not equals or not text:
        raise UsageError(f"--set {change} has no value", "write --set divergence.metrics.loss.spike.threshold=4")
    return [f"{key}={part.strip()}" for part in (text.split(",") if text[0] not in "[{'\"" else [text])]


def _apply(body: dict[str, Any], change: str, presets: Mapping[str, Mapping[str, Any]]) -> None:
    key, _, text = change.partition("=")
    first, *sections = key.split(".")
    if first != _SECTION:
        raise ConfigurationError(
            f"--set: {key} has nothing to do with the detectors", "with --metrics, only divergence.… can be set"
        )
    if not sections:
        _merge(body, _preset(text, presets))
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set: {key}: {text!r} is no value") from error
    for section in reversed(sections):
        value = {section: value}
    _merge(body, value)


def _preset(name: str, presets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    if name not in presets:
        close = difflib.get_close_matches(name, presets, 1)
        known = f"did you mean {close[0]}?" if close else f"known are: {', '.join(presets)}"
        raise ConfigurationError(f"--set: {_SECTION}={name}: there is no such preset", known)
    return presets[name]


def _merge(into: dict[str, Any], tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        own = into.get(name)
        if isinstance(own, dict) and isinstance(value, Mapping):
            _merge(own, value)
        else:
            into[name] = copy.deepcopy(value)


def unwatched(curve: Curve, settings: DivergenceSettings) -> str:
    """Why nothing can be found, or nothing of a metric; empty where all that is watched is there."""
    names = curve.names
    if missing := [name for name in settings.metrics if name not in names]:
        there = ", ".join(names)
        if len(missing) < len(settings.metrics):
            return f"{', '.join(missing)} is watched and not reported"
        return f"nothing that is watched ({', '.join(missing)}) is there, but {there}"
    return ""


def watching(tree: Mapping[str, Any], curve: Curve) -> Mapping[str, Any]:
    """``tree``; where nothing is said of metrics and there is no ``loss``, but one whose name says that it is one, that
    is watched.
    """
    losses = [name for name in curve.names if _LOSS in name.lower()]
    if "metrics" in tree or _LOSS in losses or len(losses) != 1:
        return tree
    return {**tree, "metrics": {losses[0]: {}}}


def try_out(curve: Curve, trial: Trial) -> Outcome:
    """Everything that the detectors find. Where a round goes on from an earlier step, so do they."""
    settings = replace(trial.settings, enabled=True, respond=False)
    sensor = DivergenceSensor(settings)
    sensor.resume(0, MonitorState())
    findings: list[tuple[int, Finding]] = []
    for number, start, entries in _rounds(curve):
        sensor.resume(start, sensor.state_at(start) or _state_before(curve, settings, number, start))
        sensor.hear(entries)
        findings += [(number, finding) for judged in sensor.take() for finding in judged.findings]
    return Outcome(trial, tuple(findings))


def _rounds(curve: Curve) -> Iterator[tuple[int, int, list[Any]]]:
    """Each round's number, the step that it goes on after, and its entries."""
    for number, group in itertools.groupby(curve.entries, lambda entry: entry.round):
        entries = list(group)
        yield number, max(0, entries[0].metrics.step - 1), entries


def _state_before(curve: Curve, settings: DivergenceSettings, number: int, start: int) -> MonitorState:
    """The state after a step that is long past."""
    past = of_lineage((entry for entry in curve.entries if entry.round < number), lambda step, _round: step <= start)
    return folded(settings, MonitorState(), past)
