"""From the section ``slurm`` to what a batch file says; nothing here is done, only written down."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import ConfigurationError
from resilient.policy.nodes import NodeSettings
from resilient.protocol.paths import RunPaths
from resilient.slurm.batch import Batch, Option, Task, path_pattern
from resilient.slurm.indices import as_indices, parse_indices
from resilient.slurm.jobs import comment_of
from resilient.slurm.partitions import Request, parse_time
from resilient.slurm.settings import Requeue, SlurmSettings

# Options of `sbatch` that belong to settings of ours, and those without which nothing would work.
_PLAIN = ("partition", "account", "qos", "time", "gres", "cpus_per_task", "mem", "constraint")
_HAVE_SETTINGS = {name.replace("_", "-"): name for name in (*_PLAIN, "nodes", "array", "exclude", "requeue")}
_HAVE_SETTINGS["no-requeue"] = "requeue"
_OURS = frozenset(
    {"output", "error", "input", "open-mode", "chdir", "wrap", "parsable", "test-only", "wait", "hold-output"}
    | {"ntasks", "ntasks-per-node", "export-file", "help", "usage", "version"}
)
# SLURM sends it to every process of the step, and to one that knows nothing of us SIGUSR1 and the like are the end.
_TERM = re.compile(r"(?:R:)?(?:(?:SIG)?TERM|15)(?:@\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class JobRun:
    """One run that is to be submitted.

    :param configuration: as it was checked, in YAML.
    :param index: in a job array; None outside one.
    """

    paths: RunPaths
    configuration: str
    index: int | None = None

    @property
    def file(self) -> Path:
        """Where the job finds the configuration."""
        return self.paths.slurm / "config.yaml"


def batch_of(
    home: RunPaths,
    runs: Sequence[JobRun],
    settings: SlurmSettings,
    *,
    directory: Path,
    program: Sequence[str],
    distrusted: Sequence[str] = (),
    nodes: NodeSettings | None = None,
) -> Batch:
    """The batch file of a run, or of the runs of an array.

    :param home: in whose directory it lies: that of the run itself, or of what the runs of an array have in common.
    :param directory: from which the runs are started.
    :param program: the words that start the command line of resilient.
    :param distrusted: nodes that are not to be used, beside those in the settings.
    :param nodes: of a run of several; None for one.
    :raises ConfigurationError: the settings cannot be brought to SLURM, or contradict each other.
    """
    is_array = runs[0].index is not None
    folder = path_pattern(home.slurm)
    requeues = settings.requeue is Requeue.auto
    steps = ["--ntasks=1"] if nodes is None else _steps_of_several(settings, nodes)
    steps.append("--cpu-bind=none")  # all workers of a node are children of one task
    if settings.cpus_per_task:
        steps.append(f"--cpus-per-task={settings.cpus_per_task}")  # which srun has not taken from the job since 22.05
    return Batch(
        home.slurm / "job.sbatch",
        tuple(_options(home, runs, settings, directory=directory, distrusted=distrusted, nodes=nodes)),
        f"{folder}/tasks/%a/%A_%a.log" if is_array else f"{folder}/%j.log",
        tuple(program),
        tuple(Task(run.paths.run_id, run.file, run.index) for run in runs),
        tuple(steps),
        requeues,
        settings.nodes,
    )


def _steps_of_several(settings: SlurmSettings, nodes: NodeSettings) -> list[str]:
    """One supervisor on each node. That one of them ends does not end the others, who know what becomes of the run."""
    steps = [f"--nodes={settings.nodes}", f"--ntasks={settings.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    return [*steps, "--no-kill"] if _outlives_a_node(nodes) else steps


def _outlives_a_node(nodes: NodeSettings) -> bool:
    """Whether the run may go on in the same job when one of its nodes is lost."""
    return nodes.spares > 0 or nodes.shrinks


def request_of(settings: SlurmSettings) -> Request:
    """What is compared with the partitions.

    :raises ConfigurationError: a time is none.
    """
    seconds = parse_time(settings.time) if settings.time else None
    if settings.time and seconds is None:
        raise ConfigurationError(
            f"slurm.time={settings.time} is no time", "write minutes, or 8:00:00, or 2-12:00:00 for days before hours"
        )
    partitions = tuple(filter(None, settings.partition.split(",")))
    return Request(partitions, settings.nodes, seconds, settings.account, settings.qos, settings.cpus_per_task)


def agreed(settings: SlurmSettings, nodes: NodeSettings | None) -> list[str]:
    """What one of ``slurm.nodes`` and ``nodes`` says where the other says nothing, as settings that are to be added.

    :raises ConfigurationError: they contradict each other.
    """
    whole = 1 if nodes is None else nodes.count + nodes.spares
    if whole == settings.nodes:
        return []
    if nodes is None:
        return [f"nodes={settings.nodes}"]
    if settings.nodes == 1:
        return [f"slurm.nodes={whole}"]
    raise ConfigurationError(
        f"slurm.nodes={settings.nodes}, but the run is one of {whole} nodes",
        "set one of slurm.nodes and nodes; the other follows from it",
    )


def _options(
    home: RunPaths,
    runs: Sequence[JobRun],
    settings: SlurmSettings,
    *,
    directory: Path,
    distrusted: Sequence[str],
    nodes: NodeSettings | None,
) -> Iterator[Option]:
    extra = dict(_extra(settings.extra))
    yield Option("job-name", extra.pop("job-name", home.run_id), "slurm.extra.job-name")
    why = "" if "comment" in extra else "By this comment `resilient submit` knows that the run is in the queue already."
    yield Option("comment", extra.pop("comment", comment_of(home)), "slurm.extra.comment", why)
    yield Option("chdir", str(directory), "the working directory")
    yield Option(
        "nodes", str(settings.nodes), "slurm.nodes", "One task for each node: the supervisor, which starts the workers."
    )
    yield Option("ntasks-per-node", "1")
    if nodes is not None and _outlives_a_node(nodes):
        yield Option("no-kill", "", "nodes", "When a node is lost, the others keep the job: the run goes on with them.")
    for name in _PLAIN:
        if value := getattr(settings, name):
            yield Option(name.replace("_", "-"), str(value), f"slurm.{name}")
    if excluded := ",".join(filter(None, [settings.exclude, *distrusted])):
        why = f"Machines on which this run was computed wrongly: {', '.join(distrusted)}." if distrusted else ""
        yield Option("exclude", excluded, "slurm.exclude", why)
    if runs[0].index is not None:
        indices = [run.index for run in runs if run.index is not None]
        given, limit = parse_indices(settings.array) if settings.array else ([], 0)
        if given and not set(indices) <= set(given):
            raise ConfigurationError(
                f"slurm.array={settings.array}: the tasks of a sweep are numbered by itself",
                "write slurm.array=%4, or leave it out",
            )
        yield Option("array", as_indices(indices, limit), "slurm.array")
    if settings.requeue is Requeue.auto:
        yield Option(
            "requeue", "", "slurm.requeue", "A job that is preempted, or loses its node, comes back and carries on."
        )
    else:
        yield Option("no-requeue", "", "slurm.requeue")
    for name, value in extra.items():
        yield Option(name, value, f"slurm.extra.{name}")


def _extra(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in given.items():
        name = str(key).replace("_", "-").lstrip("-")
        if name in _HAVE_SETTINGS:
            raise ConfigurationError(f"slurm.extra.{key} has a setting of its own", f"set slurm.{_HAVE_SETTINGS[name]}")
        if name in _OURS:
            raise ConfigurationError(f"slurm.extra.{key}: this is up to resilient submit", "remove it")
        if not isinstance(value, (str, int, float)):
            raise ConfigurationError(f"slurm.extra.{key}={value!r} is neither a text nor a number", "write it as text")
        if name == "signal" and not _TERM.fullmatch(str(value)):
            raise ConfigurationError(
                f"slurm.extra.signal={value} would not stop the run in good order: with B: it reaches the shell of the "
                "batch file alone, and any signal but SIGTERM may end the script or its data loading",
                "write TERM@300, for SIGTERM five minutes before the time limit",
            )
        if value is not False:
            yield name, "" if value is True else str(value)
