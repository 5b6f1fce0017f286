"""``resilient.attach`` and ``resilient.config``: where a training script meets the run it is part of."""

from __future__ import annotations

import atexit
import dataclasses
import difflib
import sys
import threading
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from resilient.errors import ConfigurationError, StateError, UsageError
from resilient.protocol.environment import WorkerEnvironment, launched_elsewhere
from resilient.protocol.paths import RunPaths
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import FingerprintSettings, RetentionSettings, SnapshotSettings
from resilient.worker.buckets import settle_buckets
from resilient.worker.capture import flatten_objects, restore
from resilient.worker.data import positioned
from resilient.worker.host import Host, SupervisedHost
from resilient.worker.positions import Positioned, leave_out
from resilient.worker.progress import progress
from resilient.worker.rng import GlobalRandomState
from resilient.worker.run import Run
from resilient.worker.signals import kill_data_loading, sigterm
from resilient.worker.standalone import StandaloneHost, default_run_directory

_RESERVED = frozenset({"rng", "position"})
Settings = TypeVar("Settings")


def attach(
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    data: Any = None,
    run_id: str | None = None,
    snapshot: SnapshotSettings | None = None,
    retention: RetentionSettings | None = None,
    fingerprint: FingerprintSettings | None = None,
    **others: Any,
) -> Run:
    """Make the training state part of the run, and restore it if there is something to restore.

    Call it once, when everything exists and nothing has been trained. Each object needs ``state_dict()`` and
    ``load_state_dict()``; lists and dictionaries of such objects do too. The random number generators of Python,
    numpy and torch (CPU and CUDA) always belong to the state.

    :param data: a ``DataLoader`` over a map-style dataset, or a loader with ``state_dict()``; ``run.steps`` yields
        its batches.
    :param run_id: name of the run without a supervisor; by default the script's. Under a supervisor it is set already.
    :param snapshot: when to take snapshots without a supervisor; its configuration decides otherwise.
    :param retention: which snapshots are kept without a supervisor; likewise.
    :param fingerprint: which hashes of each step are reported without a supervisor; likewise.
    :param others: further objects, such as ``ema=`` or ``scaler=``.
    :raises StateError: an object has no state, or the snapshot does not fit the objects.
    :raises SnapshotCorrupt: snapshots exist and none can be loaded.
    """
    for name in _RESERVED & set(others):
        raise UsageError(f"{name}= is a name that resilient uses itself", "choose another name")
    progress.withdraw()
    sigterm.install()
    atexit.register(kill_data_loading)  # runs before the handler of multiprocessing, which was registered earlier
    random = GlobalRandomState()
    position = positioned(data, torch.initial_seed())
    objects = flatten_objects({"model": model, "optimizer": optimizer, "scheduler": scheduler, **others})
    host = _host(run_id, snapshot, retention, fingerprint)
    run = Run(host, {**objects, "position": position, "rng": random}, position, random)
    _resume(run, host, {**objects, "position": position}, position)
    left_out = leave_out(position, host.plan.skips, host.plan.skip_steps, run.step)
    if left_out:
        host.left_out(left_out)
    if host.group is not None:
        settle_buckets(objects.values())
    host.attached(run.step)
    return run


def _resume(run: Run, host: Host, objects: Mapping[str, Any], position: Positioned) -> None:
    """Go on from what there is, if there is anything."""
    image, snapshot, held = host.image(), host.plan.reshard_from, _Held()
    everything = {**objects, "rng": held}
    try:
        step = restore(image, everything, allow_pickle=host.settings.allow_pickle) if image is not None else None
    except StateError:
        if snapshot is None:
            raise
        step = None
    if step is None and snapshot is not None:
        from resilient.worker.reshard import fresh_generators, reshard  # noqa: PLC0415  rare, and needs much of torch

        loaded = reshard(Path(snapshot), everything, rank=host.rank, allow_pickle=host.settings.allow_pickle)
        step = loaded.step
        if loaded.new_rank:
            held.state = fresh_generators(held.state, host.rank)
    if step is not None:
        run.resume(step, held.state)
        position.resumed(step)


class _Held:
    """Keeps the generators' states until it is time to set them."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}

    def state_dict(self) -> Mapping[str, Any]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = state


def _host(
    run_id: str | None,
    snapshot: SnapshotSettings | None,
    retention: RetentionSettings | None,
    fingerprint: FingerprintSettings | None,
) -> Host:
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("resilient.attach() must be called from the main thread")
    environment = WorkerEnvironment.read()
    if environment is not None:
        return SupervisedHost(environment, RoundPlan.read(environment.plan))
    if (processes := launched_elsewhere()) > 1:
        raise UsageError(
            f"resilient.attach() in one of {processes} processes that another launcher has started (WORLD_SIZE): each "
            "would write the same snapshots",
            f"start the ranks with resilient train conf=… worker.ranks={processes}, in place of torchrun or the like",
        )
    main = getattr(sys.modules["__main__"], "__file__", None)
    name = run_id or (Path(main).stem if main else "run")
    paths = RunPaths.of(default_run_directory(), name)
    return StandaloneHost(paths, snapshot or SnapshotSettings(), retention or RetentionSettings(), fingerprint)


def config(schema: type[Settings]) -> Settings:
    """The script's settings: ``schema()``, overridden by the section ``train`` of the run's configuration.

    :param schema: a dataclass whose fields all have defaults. Without a supervisor its defaults are returned.
    :raises ConfigurationError: ``train`` has a key that the dataclass does not have, or a value of another type.
    """
    if not dataclasses.is_dataclass(schema):
        raise UsageError(f"resilient.config() wants a dataclass, not {schema!r}")
    environment = WorkerEnvironment.read()
    given = RoundPlan.read(environment.plan).train if environment is not None else {}
    types = typing.get_type_hints(schema)
    known = {field.name: types[field.name] for field in dataclasses.fields(schema) if field.init}
    return typing.cast("Settings", schema(**{key: _fitting(schema, known, key, given[key]) for key in given}))


def _fitting(schema: type[Any], known: Mapping[str, Any], key: str, value: Any) -> Any:
    if key not in known:
        nearest = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean train.{nearest[0]}?" if nearest else f"known are: {', '.join(sorted(known))}"
        raise ConfigurationError(f"train.{key} is no setting of {schema.__name__}", hint)
    wanted = known[key]
    if wanted is float and type(value) is int:
        return float(value)
    if wanted in (bool, int, float, str) and type(value) is not wanted:
        raise ConfigurationError(f"train.{key}={value!r} must be {wanted.__name__}, not {type(value).__name__}")
    return value
