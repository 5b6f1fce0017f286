"""What a command is about: the run, what its configuration says, and the snapshots that lie here and remotely."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from resilient.errors import ConfigurationError, SnapshotNotFound, UsageError
from resilient.protocol.paths import RunPaths
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings
from resilient.runs import no_such_run
from resilient.snapshot.inventory import Item, State, candidates, inventory
from resilient.snapshot.remote import RemoteItem, RemoteTier, current
from resilient.snapshot.retention import Candidate, best_first
from resilient.snapshot.standing import MARGIN, Standing

_KEYS = ("run", "dir", "step", "tier", "to", "object")
_SECTIONS = ("retention", "remote")
TIERS = ("local", "remote")
_STEPS = "step=50, step=latest, step=best or step=good"


@dataclass(frozen=True)
class Target:
    """The run that is meant, and what its configuration says.

    :param given: ``key=value`` from the command line, but for sections of the configuration.
    :param configured: the saved configuration; empty for a run without a supervisor, and on another machine.
    :param overrides: ``retention.*`` and ``remote.*`` from the command line, as nested sections.
    """

    paths: RunPaths
    given: Mapping[str, str] = field(default_factory=dict)
    configured: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> str:
        return self.given.get("step", "")

    @property
    def tier(self) -> str:
        """``local`` or ``remote``, or nothing if it was not said.

        :raises UsageError: there is no such tier.
        """
        tier = self.given.get("tier", "")
        if tier not in {"", *TIERS}:
            raise UsageError(f"tier={tier} is no tier", "use tier=local or tier=remote")
        return tier

    @property
    def retention(self) -> RetentionSettings:
        return RetentionSettings.of({**self._section("retention"), **self.overrides.get("retention", {})})

    @property
    def remote(self) -> RemoteSettings:
        return RemoteSettings.of(_merged(self._section("remote"), self.overrides.get("remote", {})))

    @property
    def memory_dir(self) -> str:
        return str(self._section("snapshot").get("memory_dir", ""))

    def _section(self, name: str) -> dict[str, Any]:
        section = self.configured.get(name)
        return dict(section) if isinstance(section, Mapping) else {}

    @property
    def margin(self) -> int | None:
        """The setting ``divergence.margin``; None where the run is not watched."""
        section = self._section("divergence")
        margin = section.get("margin", MARGIN)
        if section.get("enabled") is False:
            return None
        return margin if type(margin) is int else MARGIN

    def standing(self) -> Standing:
        """What the run's lineage says, now."""
        return Standing.read(self.paths.snapshots)

    def known_standing(self) -> Standing | None:
        """The same, or None where nothing on this machine says anything: then the remote tier may."""
        return self.standing() if self.paths.lineage.exists() else None

    def items(self, *, discarded: bool = False) -> tuple[Item, ...]:
        """The snapshots on this machine.

        :param discarded: those too that a rollback has discarded.
        """
        found = inventory(self.paths.snapshots, self.standing())
        return tuple(item for item in found if discarded or item.state is not State.DISCARDED)

    def remote_tier(self) -> RemoteTier:
        """The run's remote tier.

        :raises UsageError: it has none.
        :raises ConfigurationError: its filesystem cannot be used.
        """
        if not self.remote.enabled:
            raise UsageError(
                f"the run {self.paths.run_id} has no remote tier", "name it: remote.url=s3://bucket/prefix"
            )
        from resilient.snapshot.bucket_fsspec import open_bucket  # noqa: PLC0415  most commands do without it

        return RemoteTier(open_bucket(self.remote, self.paths.run_id))

    def chosen(self, default: str = "") -> Item:
        """The snapshot on this machine that ``step=`` means.

        :raises SnapshotNotFound: there is none.
        """
        items = self.items()
        step = self.chosen_step(candidates(items), [item.step for item in items], default)
        return min((item for item in items if item.step == step), key=lambda item: item.quarantined)

    def named(self) -> Item:
        """The snapshot on this machine that ``step=`` means, which must have been said."""
        if not self.step:
            raise UsageError("which snapshot?", f"add {_STEPS}")
        return self.chosen()

    def chosen_step(self, loadable: Sequence[Candidate], steps: Sequence[int], default: str = "") -> int:
        """The step that ``step=`` means.

        :param loadable: what ``latest``, ``best`` and ``good`` are taken from.
        :param steps: all steps there are.
        :raises SnapshotNotFound: there is none.
        """
        wanted = self.step or default
        if wanted == "latest":
            found = [candidate.step for candidate in loadable][-1:]
        elif wanted == "best":
            found = self._best(loadable)
        elif wanted == "good":
            found = [self._good(loadable)]
        elif wanted.isdecimal():
            found = [int(wanted)]
        else:
            raise UsageError(f"step={wanted} is no step", f"use {_STEPS}")
        if not found or found[0] not in steps:
            raise self._missing(wanted, sorted(set(steps)))
        return found[0]

    def _best(self, loadable: Sequence[Candidate]) -> list[int]:
        settings = self.retention
        if not settings.best_metric:
            raise UsageError("step=best: best by which metric?", "add retention.best_metric=NAME, and best_mode if max")
        return best_first(loadable, settings.best_metric, settings.best_mode)[:1]

    def _good(self, loadable: Sequence[Candidate]) -> int:
        standing = self.standing()
        found = standing.newest_good([candidate.step for candidate in loadable])
        if found is None:
            why = standing.problem or "no snapshot has been long enough without an alarm"
            raise SnapshotNotFound(f"the run {self.paths.run_id} has no snapshot that is known to be good: {why}")
        return found

    def _missing(self, wanted: str, steps: Sequence[int]) -> SnapshotNotFound:
        there = ", ".join(map(str, steps[-10:])) if steps else "there are none"
        known = f"the last of its {len(steps)}: {there}" if len(steps) > 10 else f"those of the run: {there}"
        return SnapshotNotFound(f"the run {self.paths.run_id} has no snapshot step={wanted}", known)


def everywhere(items: Sequence[Item], remote: Sequence[RemoteItem]) -> list[Candidate]:
    """What may be loaded from any tier, by step; of one step, the nearer."""
    there = {
        step: Candidate(step, item.manifest.created, item.manifest.metrics)
        for step, item in current(remote).items()
        if item.manifest is not None
    }
    here = {candidate.step: candidate for candidate in candidates(items)}
    return [candidate for _, candidate in sorted({**there, **here}.items())]


def find_target(
    overrides: Sequence[str], keys: Sequence[str] = _KEYS, example: str = "resilient snapshots list run=demo"
) -> Target:
    """Read ``run=… dir=… step=… retention.…=… remote.…=…``.

    :param keys: what may be said beside the sections; ``run`` and ``dir`` are among them.
    :raises UsageError: a key is not known, or no run is named.
    :raises RunNotFound: there is no such run.
    """
    if bare := [text for text in overrides if "=" not in text]:
        raise UsageError(f"{bare[0]} is no key=value", f"did you mean run={bare[0]}?")
    pairs = dict(text.split("=", 1) for text in overrides)
    plain = {key: value for key, value in pairs.items() if key.partition(".")[0] not in _SECTIONS}
    for key in plain.keys() - set(keys):
        close = difflib.get_close_matches(key, keys, 1)
        hint = f"did you mean {close[0]}=?" if close else f"known are {', '.join(keys)}, retention.… and remote.…"
        raise UsageError(f"{key}= is not known here", hint)
    if not plain.get("run"):
        raise UsageError("run=ID is needed", f"for example: {example}")
    paths = RunPaths.of(plain.get("dir", "runs"), plain["run"])
    sections = _nested({key: value for key, value in pairs.items() if key not in plain})
    if not paths.snapshots.is_dir() and not sections.get("remote", {}).get("url"):
        raise no_such_run(paths.run_id, paths.root.parent)
    return Target(paths, plain, _saved_configuration(paths), sections)


def _nested(pairs: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, text in pairs.items():
        *above, last = key.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        if not above or not isinstance(node, dict):
            raise ConfigurationError(f"{key}= is a whole section", f"set one of its values: {key}.…=")
        node[last] = yaml.safe_load(text)
    return tree


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(value, Mapping) and isinstance(known, Mapping) else value
    return merged


def _saved_configuration(paths: RunPaths) -> Mapping[str, Any]:
    try:
        loaded = yaml.safe_load(paths.config.read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, Mapping) else {}
