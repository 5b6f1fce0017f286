"""Configuration: Hydra composes it, OmegaConf checks it, frozen dataclasses carry it on.

The schema is made of the settings classes of the layers below, so each option is declared and documented once. This
module and the command line alone import hydra and omegaconf.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import itertools
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resilient import entry
from resilient.errors import ConfigurationDrift, ConfigurationError
from resilient.policy.divergence import DivergenceSettings
from resilient.policy.hang import HangSettings
from resilient.policy.nodes import NodeSettings
from resilient.policy.restarts import RestartSettings
from resilient.policy.state import StopSettings
from resilient.policy.stragglers import StragglerSettings
from resilient.protocol.peer_settings import PeerSettings
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import FingerprintSettings, RetentionSettings, SnapshotSettings
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.slurm.settings import SlurmSettings
from resilient.supervisor.settings import ConsoleSettings, GroupSettings, LogSettings, RunSettings, WorkerSettings

_SCHEMA, _PRIMARY = "resilient_schema", "resilient_primary"
_PACKAGE = Path(__file__).parent
_LONGEST_JOB_NAME = 80
_FREE_KEYS = frozenset(
    {"worker.env", "worker.metrics", "worker.exit_codes", "remote.options", "slurm.extra"}
    | {"restarts.per_class", "restarts.class_waits"}
)
_NAMED_WITH_CARE = frozenset({"train", "divergence.metrics"})  # a name there is more likely to be misspelt than new
# These say where and how this launch is to be done, shown and watched, not what is trained. Whoever starts a run again
# after a false alarm, or after one that came too late, changes how it is watched and nothing else.
_PER_LAUNCH = re.compile(
    r"run\.(allow_drift|allow_reshard|trust_node|stop_after)"
    r"|(console|logs|trackers|divergence|fingerprint|slurm|group|peer)\..*"
    r"|nodes"  # how many ranks there are altogether is compared with what the snapshots say
)
_NO_PRESET = "Could not override 'divergence'. No match in the defaults list"


@dataclass(frozen=True)
class Config:
    """The whole configuration; ``train`` belongs to the user's script and has whatever keys its configuration file
    gives it.

    :param train: whatever the script reads with ``resilient.config(Settings)``.
    :param script: short for ``worker.script``, for the command line; it ends up in ``worker``.
    :param module: likewise for ``worker.module``.
    :param script_args: likewise for ``worker.args``.
    :param nodes: how many machines train together, each of them with ``worker.ranks``; ``4:5`` for four, and a fifth
        that stands by for one that is lost.
    """

    worker: WorkerSettings
    run: RunSettings = field(default_factory=RunSettings)
    snapshot: SnapshotSettings = field(default_factory=SnapshotSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    restarts: RestartSettings = field(default_factory=RestartSettings)
    hang: HangSettings = field(default_factory=HangSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    stragglers: StragglerSettings = field(default_factory=StragglerSettings)
    divergence: DivergenceSettings = field(default_factory=DivergenceSettings)
    fingerprint: FingerprintSettings = field(default_factory=FingerprintSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    console: ConsoleSettings = field(default_factory=ConsoleSettings)
    trackers: TrackersSettings = field(default_factory=TrackersSettings)
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    group: GroupSettings = field(default_factory=GroupSettings)
    nodes: Any = 1
    train: dict[str, Any] = field(default_factory=dict)
    script: str = ""
    module: str = ""
    script_args: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _ = self.node_settings  # checked before anything starts

    @property
    def node_settings(self) -> NodeSettings | None:
        """What the decision core is told of several nodes; None for one."""
        return self.group.settings(self.nodes)

    @property
    def world_size(self) -> int:
        """Ranks of all nodes together."""
        nodes = self.node_settings
        return self.worker.ranks * (1 if nodes is None else nodes.count)

    @property
    def reshards(self) -> bool:
        """Whether a snapshot of another number of ranks may be resumed from."""
        nodes = self.node_settings
        return self.run.allow_reshard or (nodes is not None and nodes.shrinks)


@dataclass(frozen=True)
class Composed:
    """A checked configuration, as objects and as the plain tree it was made from."""

    name: str
    config: Config
    tree: Mapping[str, Any]

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(_escaped(self.tree)))


def builtin_directory(name: str) -> Path:
    """``conf`` or ``examples``: inside the package when installed from a wheel, beside it in a checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def find(conf: str) -> Path:
    """The file that ``conf=`` means: a path, a name in ``./conf``, or a built-in name.

    :raises ConfigurationError: there is none; the message names those there are.
    """
    if conf.endswith((".yaml", ".yml")) or "/" in conf:
        path = Path(conf if conf.endswith((".yaml", ".yml")) else f"{conf}.yaml")
        if path.is_file():
            return path.resolve()
        raise ConfigurationError(f"conf={conf}: there is no file {path}")
    places = [Path.cwd() / "conf", builtin_directory("conf")]
    for place in places:
        if (place / f"{conf}.yaml").is_file():
            return (place / f"{conf}.yaml").resolve()
    known = sorted({path.stem for place in places if place.is_dir() for path in place.glob("*.yaml")})
    raise ConfigurationError(
        f"conf={conf} is neither a built-in configuration nor one in ./conf", _nearest(conf, known)
    )


def expand_sweep(overrides: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """All combinations of ``key=a,b`` overrides, each with a name that tells it from the others."""
    verbatim = [text for text in overrides if entry.is_verbatim(text)]
    parsed = _parse([text for text in overrides if not entry.is_verbatim(text)])
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in parsed
    ]
    swept = [override.is_sweep_override() for override in parsed]
    for combination in itertools.product(*choices):
        varied = [text for text, is_swept in zip(combination, swept, strict=True) if is_swept]
        name = ",".join(re.sub(r"[^A-Za-z0-9._=+-]", "-", text) for text in varied)
        short = name if len(name) <= _LONGEST_JOB_NAME else hashlib.sha256(name.encode()).hexdigest()[:16]
        yield short, [*combination, *verbatim]


def load(conf: str, overrides: Sequence[str], *, suffix: str = "", arguments: Sequence[str] = ()) -> Composed:
    """Compose and check a configuration.

    :param suffix: appended to the run's id, so that the jobs of a sweep do not share a directory.
    :param arguments: appended to the script's arguments, as they are.
    :raises ConfigurationError: an unknown key (with the nearest known one), a bad value, or an impossible combination.
    """
    path = find(conf)
    _require_quoted(path, "nodes")
    given, overrides = entry.take_verbatim(overrides)
    for override in _parse(overrides):
        if override.is_sweep_override():
            raise ConfigurationError(f"{override.input_line} is a sweep", "add --multirun to run each of its values")
    composed = _compose(path, overrides)
    try:
        tree = _container(composed, enum_to_str=True)
        plain = _container(composed)
    except OmegaConfBaseException as error:
        raise ConfigurationError(_first_line(error)) from error
    for body in (tree, plain):
        named = entry.settle(body, given, arguments)
        run_id = body["run"]["id"] or (entry.run_id(body["worker"]) if named else path.stem)
        body["run"]["id"] = run_id + (f"-{suffix}" if suffix else "")
    return Composed(path.stem, _freeze(Config, plain), tree)


def _require_quoted(path: Path, key: str) -> None:
    """YAML takes ``4:5`` for 4 · 60 + 5, as a clock tells it, and nobody would know before 245 nodes are missing.

    :raises ConfigurationError: the value of ``key`` is such a one.
    """
    try:
        root = yaml.compose(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # whoever loads it says so
    for name, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if name.value == key and isinstance(value, yaml.ScalarNode) and value.style is None and ":" in value.value:
            raise ConfigurationError(
                f"{path.name}: {key}: {value.value} is a time in YAML", f"quote it: '{value.value}'"
            )


def _container(composed: DictConfig, **options: Any) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True, **options))


def check_drift(saved: Path, composed: Composed, *, allow: bool, free: Collection[str] = ()) -> list[str]:
    """Compare with the configuration the run was started with; returns the differences, one line each.

    A setting that did not exist then counts as having had its default.

    :param allow: all may differ; ``free``: these may.

    :raises ConfigurationDrift: there are some, and they are not allowed.
    """
    if not saved.exists():
        return []
    before = dict(_leaves(OmegaConf.to_container(OmegaConf.load(saved), resolve=True)))
    after = dict(_leaves(composed.tree))
    defaults = OmegaConf.to_container(OmegaConf.structured(_thawed(Config)), enum_to_str=True)
    before = {**{key: value for key, value in _leaves(defaults) if key in after}, **before}
    keys = sorted(key for key in before.keys() | after.keys() if not _PER_LAUNCH.fullmatch(key))
    missing = "(absent)"
    changed = [
        f"{key}: {before.get(key, missing)} → {after.get(key, missing)}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing)
    ]
    refused = [line for line in changed if line.partition(":")[0] not in free]
    if refused and not allow:
        raise ConfigurationDrift(
            "the configuration differs from the one this run was started with:\n    " + "\n    ".join(refused),
            "undo the change, choose another run.id=…, or carry on with it by run.allow_drift=true",
        )
    return changed


def _compose(path: Path, overrides: Sequence[str]) -> DictConfig:
    store = ConfigStore.instance()
    store.store(name=_SCHEMA, node=_thawed(Config))
    store.store(name=_PRIMARY, node={"defaults": [_SCHEMA, path.stem, "_self_"]})
    if not OmegaConf.has_resolver("builtin"):
        OmegaConf.register_new_resolver("builtin", lambda name: str(builtin_directory(name)))
    places = [path.parent, Path.cwd() / "conf", builtin_directory("conf")]
    search = ",".join(f"file://{place}" for place in places[1:] if place.is_dir() and place != path.parent)
    overrides = [f"hydra.searchpath=[{search}]", *(_metrics_merged(_adding(text)) for text in overrides)]
    try:
        return _composed(path.parent, overrides)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name} is no valid YAML: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _explained(error, path) from error


def _composed(directory: Path, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of it. A preset of ``divergence`` may be named on the command line whether or not the
    configuration names one too.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3", job_name="resilient"):
        try:
            return compose(_PRIMARY, overrides=list(overrides))
        except HydraException as error:
            if not str(error).startswith(_NO_PRESET):
                raise
        added = [f"+{text}" if text.startswith("divergence=") else text for text in overrides]
        return compose(_PRIMARY, overrides=added)


def _adding(override: str) -> str:
    """A key below one that is free to have any is added where it is not there; Hydra wants a plus for that."""
    key, equals, _ = override.partition("=")
    return f"++{override}" if equals and {key, key.rpartition(".")[0]} & _FREE_KEYS else override


def _metrics_merged(override: str) -> str:
    """``+divergence.metrics.val_loss.drift.held=3`` as ``+divergence.metrics={val_loss:{drift:{held:3}}}``: only by
    merging does a new metric get the defaults of all that is not said of it.
    """
    key, _, value = override.partition("=")
    if not re.fullmatch(r"\+{1,2}divergence\.metrics\..+", key):
        return override
    for part in reversed(key.split(".")[2:]):
        value = f"{{{part}:{value}}}"
    return f"+divergence.metrics={value}"


def _explained(error: Exception, path: Path) -> ConfigurationError:
    """Hydra's error in one line that names the key and the nearest one that exists."""
    cause: BaseException = error
    while not getattr(cause, "full_key", None) and (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    key = str(getattr(cause, "full_key", "") or "")
    text = _first_line(cause)
    if not key:
        return _preset_error(error) or ConfigurationError(f"{path.name}: {_first_line(error)}")
    if "is not in struct" in text or "not in '" in text:
        parent, _, name = key.rpartition(".")
        known = _known_keys(parent, path)
        hint = _nearest(name, known, prefix=f"{parent}." if parent else "")
        if {parent, parent.split(".")[0]} & _NAMED_WITH_CARE:
            hint += f"; for a new key, write +{key}=…"
        return ConfigurationError(f"{key} is not a known key", hint)
    return ConfigurationError(f"{key}: {text}")


def _preset_error(error: Exception) -> ConfigurationError | None:
    """What is wrong with a preset's name, if that is what is wrong."""
    if missing := re.search(r"Could not find '(\w+)/(.*)'", str(error)):
        group, name = missing.groups()
        known = re.findall(r"^\t(\S+)$", str(error), re.MULTILINE)
        return ConfigurationError(f"{group}={name}: there is no such preset", _nearest(name, known, prefix=f"{group}="))
    if "in defaults : bool" in str(error):
        return ConfigurationError("a name in the defaults list is a truth value in YAML", "quote it: 'off'")
    return None


def _known_keys(parent: str, path: Path) -> list[str]:
    node: Any = OmegaConf.merge(OmegaConf.structured(_thawed(Config)), {"train": _train_section(path)})
    parent = re.sub(r"^divergence\.metrics\.[^.]+", "divergence.metrics.loss", parent)  # all have the same keys
    for part in filter(None, parent.split(".")):
        node = node.get(part) if isinstance(node, DictConfig) else None
    return [str(key) for key in node] if isinstance(node, DictConfig) else []


def _train_section(path: Path) -> Any:
    loaded = OmegaConf.load(path)
    return loaded.get("train", {}) if isinstance(loaded, DictConfig) else {}


def _parse(overrides: Iterable[str]) -> list[Any]:
    for text in overrides:
        if text.split("=")[0].lstrip("+~").startswith("hydra"):
            raise ConfigurationError(f"{text}: hydra.* cannot be set here", "remove it")
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigurationError(
            f"an override could not be understood: {_first_line(error)}", "write key=value, quoted if it holds blanks"
        ) from error


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"known are: {', '.join(f'{prefix}{key}' for key in known)}" if known else "there are none"


def _escaped(tree: Any) -> Any:
    """The tree with every ``${`` written so that it is read back as it is, and not as an interpolation."""
    if isinstance(tree, Mapping):
        return {key: _escaped(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_escaped(value) for value in tree]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _thawed(frozen: type[Any]) -> type[Any]:
    """A twin of a frozen settings class without its checks, for OmegaConf, which takes frozen classes for read-only."""
    types = typing.get_type_hints(frozen)
    fields: list[Any] = []
    for item in dataclasses.fields(frozen):
        kind = types[item.name]
        if dataclasses.is_dataclass(kind):
            twin = _thawed(typing.cast("type[Any]", kind))
            fields.append((item.name, twin, field(default_factory=twin)))
        elif (item_kind := _item_kind(kind)) is not None and item.default_factory is not dataclasses.MISSING:
            twin = _thawed(item_kind)
            made = functools.partial(_each, tuple(item.default_factory()), twin)
            fields.append((item.name, dict[str, twin], field(default_factory=made)))  # type: ignore[valid-type]
        elif item.default_factory is not dataclasses.MISSING:
            fields.append((item.name, kind, field(default_factory=item.default_factory)))
        else:
            fields.append((item.name, kind, field(default=item.default)))
    return make_dataclass(frozen.__name__, fields)


def _each(names: Iterable[str], make: Callable[[], Any]) -> dict[str, Any]:
    return {name: make() for name in names}


def _item_kind(kind: Any) -> Any:
    """``S`` where ``kind`` is ``dict[str, S]`` of a settings class; else None."""
    items = typing.get_args(kind)[1:] if typing.get_origin(kind) is dict else ()
    return items[0] if items and dataclasses.is_dataclass(items[0]) else None


def _freeze(kind: Any, tree: Any, path: str = "") -> Any:
    """``tree`` as an instance of ``kind``, checked.

    :raises ConfigurationError: a value cannot be used, or a key that was added is not known.
    """
    if (item_kind := _item_kind(kind)) is not None:
        return {name: _freeze(item_kind, item, f"{path}{name}.") for name, item in tree.items()}
    if not dataclasses.is_dataclass(kind):
        return tree
    types = typing.get_type_hints(kind)
    for key in tree.keys() - types.keys():
        raise ConfigurationError(f"{path}{key} is not a known key", _nearest(key, list(types), prefix=path))
    make = typing.cast("type[Any]", kind)
    return make(**{key: _freeze(types[key], value, f"{path}{key}.") for key, value in tree.items()})
