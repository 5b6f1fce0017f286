"""How well divergence is found: false alarms on healthy curves, delays and misses on faults, beside what others do.

    python -m benchmarks.divergence --curves healthy_loss.jsonl --folder curves --json divergence.json

Definitions, method and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from benchmarks.divergence_curves import CLEAN, Curve, curves
from benchmarks.divergence_peers import PEERS, Said
from benchmarks.divergence_score import Outcome, events, outcome, percentile, poisson_interval
from benchmarks.divergence_synthetic import KINDS, UNSEEN, healthy
from benchmarks.recovery_report import machine
from resilient.policy.divergence import Alarm, Divergence, DivergenceSettings, MonitorState, observe

_PRESETS = Path(__file__).resolve().parent.parent / "conf" / "divergence"
_TUNING_SEED = 1000  # seeds from here on were used to choose thresholds; the tables are made of those below it
Row: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True)
class Contestant:
    """:param action: what it does when it acts."""

    name: str
    action: str
    judge: Callable[[Sequence[float], Sequence[float] | None], list[Said]]


def contestants(presets: Sequence[str]) -> Iterator[Contestant]:
    for preset in presets:
        yield Contestant(f"resilient, {preset}", "rolls back", _ours(load(preset)))
    for peer in PEERS:
        yield Contestant(peer.name, peer.action, peer.judge)


def load(preset: str) -> DivergenceSettings:
    """A built-in preset as the run's configuration would have it."""
    return DivergenceSettings.from_mapping(yaml.safe_load((_PRESETS / f"{preset}.yaml").read_text()))


def _ours(settings: DivergenceSettings) -> Callable[[Sequence[float], Sequence[float] | None], list[Said]]:
    def judge(losses: Sequence[float], norms: Sequence[float] | None) -> list[Said]:
        state, said = MonitorState(), []
        for index, loss in enumerate(losses):
            metrics = {"loss": loss} if norms is None else {"loss": loss, "grad_norm": norms[index]}
            state, findings = observe(settings, state, index + 1, metrics)
            acts = [isinstance(item, Divergence) for item in findings if isinstance(item, Alarm | Divergence)]
            said += [Said(index + 1, acts=any(acts))] if acts else []
        return said

    return judge


def is_for_tuning(source: str) -> bool:
    """A third of the healthy curves, chosen by their names, was looked at while thresholds were chosen."""
    return int(hashlib.sha256(source.encode()).hexdigest(), 16) % 3 == 0


# --- healthy curves


def measure_healthy(every: Sequence[Contestant], named: Sequence[tuple[str, list[float]]]) -> list[Row]:
    """Alarms and actions of each contestant on curves that did not diverge."""
    steps = sum(len(losses) for _, losses in named)
    rows = []
    for contestant in every:
        said = [contestant.judge(losses, None) for _, losses in named]
        rows.append(
            {
                "name": contestant.name,
                "action": contestant.action,
                "steps": steps,
                "alarms": sum(map(events, said)),
                "actions": sum(events([item for item in one if item.acts]) for one in said),
            }
        )
        print(".", end="", file=sys.stderr, flush=True)
    return rows


def report_healthy(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        alarms, actions = (_rate(row[key], row["steps"]) for key in ("alarms", "actions"))
        yield f"{row['name']:<28} alarms {alarms}   {row['action']} {actions}"


def _rate(count: int, steps: int) -> str:
    least, most = (1e5 * bound / steps for bound in poisson_interval(count))
    return f"{count:5d} = {1e5 * count / steps:7.2f} [{least:.2f}, {most:.2f}] per 100k"


# --- faults


def measure_faults(every: Sequence[Contestant], found: Sequence[Curve]) -> list[Row]:
    """One row for each contestant and hurt curve."""
    twins = {curve.seed: curve for curve in found if curve.kind == CLEAN}
    rows = []
    for contestant in every:
        for curve in found:
            if curve.kind != CLEAN:
                said = contestant.judge(curve.loss, curve.grad_norm)
                result = outcome(curve, twins[curve.seed], said)
                rows.append({"name": contestant.name, "kind": curve.kind, "seed": curve.seed, "outcome": result})
        print(".", end="", file=sys.stderr, flush=True)
    return rows


def report_faults(rows: Sequence[Row]) -> Iterator[str]:
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        yield f"{name}"
        for kind in dict.fromkeys(row["kind"] for row in own):
            yield f"  {kind:<32} {_summary([row['outcome'] for row in own if row['kind'] == kind])}"
        yield f"  {'all':<32} {_summary([row['outcome'] for row in own])}"


def _summary(outcomes: Sequence[Outcome]) -> str:
    lasting = [item for item in outcomes if item.harm.lasts]
    passing = [item for item in outcomes if item.harm.hurt and not item.harm.lasts]
    harmless = [item for item in outcomes if not item.harm.hurt]
    parts = []
    if lasting:
        alarms, actions = (
            [delay for item in lasting if (delay := getattr(item, key)) is not None] for key in ("alarm", "action")
        )
        parts.append(
            f"lasting {len(lasting)}: missed {len(lasting) - len(alarms)}, alarm after {percentile(alarms, 0.5):.0f} "
            f"(p95 {percentile(alarms, 0.95):.0f}); not acted on {len(lasting) - len(actions)}, "
            f"action after {percentile(actions, 0.5):.0f}"
        )
    for word, some in (("recovering", passing), ("harmless", harmless)):
        if some:
            alarmed, acted = (sum(getattr(item, key) is not None for item in some) for key in ("alarm", "action"))
            parts.append(f"{word} {len(some)}: alarms {alarmed}, actions {acted}")
    return "; ".join(parts)


# --- all of it


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    every = list(contestants(options.presets))
    body: dict[str, Any] = {"machine": surroundings}
    first = _TUNING_SEED if options.tuning else 0
    if options.curves:
        named = list(_read(options.curves, tuning=options.tuning))
        _section(body, "healthy curves, real", measure_healthy(every, named), report_healthy)
    if options.synthetic_steps:
        for kind in KINDS if options.tuning else {**KINDS, **UNSEEN}:
            drawn = [(kind, healthy(kind, first + seed, options.synthetic_steps)) for seed in range(options.seeds)]
            title = f"healthy, drawn{' (unseen)' if kind in UNSEEN else ''}: {kind}"
            _section(body, title, measure_healthy(every, drawn), report_healthy)
    if options.folder:
        found = list(curves(options.folder, range(first, first + options.seeds)))
        _section(body, "faults in real training", measure_faults(every, found), report_faults)
    if options.json:
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False, default=vars) + "\n")


def _section(
    body: dict[str, Any], title: str, rows: list[Row], report: Callable[[Sequence[Row]], Iterator[str]]
) -> None:
    lines = list(report(rows))
    body[title] = {"rows": rows, "report": lines}
    print("", title, *lines, sep="\n", flush=True)


def _read(path: Path, *, tuning: bool) -> Iterator[tuple[str, list[float]]]:
    """One JSON object a line: ``source``, and ``loss`` of each step."""
    for line in path.read_text().splitlines():
        item = json.loads(line)
        if not tuning or is_for_tuning(item["source"]):
            yield item["source"], item["loss"]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.divergence", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--curves", type=Path, help="healthy curves, one JSON object a line: source, loss")
    parser.add_argument("--folder", type=Path, help="where curves with faults lie, or are made; none without it")
    parser.add_argument("--seeds", type=int, default=5, help="of each fault and drawn curve (default: %(default)s)")
    parser.add_argument("--synthetic-steps", type=int, default=5000, help="of each drawn curve; 0 for none")
    parser.add_argument("--presets", nargs="*", default=["default", "strict"], help="ours (default: %(default)s)")
    parser.add_argument("--tuning", action="store_true", help="what thresholds are chosen on, not what is published")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
