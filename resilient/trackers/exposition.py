"""Prometheus's text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


@dataclass(frozen=True)
class Sample:
    """One value.

    :param suffix: of the family's name, as ``_bucket`` of a histogram.
    """

    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """Values of one name.

    :param type: ``counter``, ``gauge`` or ``histogram``.
    """

    name: str
    type: str
    help: str
    samples: tuple[Sample, ...]


def exposition(families: Iterable[Family]) -> str:
    """All of them as text; one without values is left out."""
    lines = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.type}"]
            lines += [
                f"{family.name}{sample.suffix}{_labels(sample)} {_number(sample.value)}" for sample in family.samples
            ]
    return "\n".join(lines) + "\n"


def _labels(sample: Sample) -> str:
    inner = ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in sample.labels.items())
    return f"{{{inner}}}" if inner else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
