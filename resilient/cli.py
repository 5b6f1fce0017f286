"""The command line: ``resilient train conf=NAME key=value …``, ``resilient snapshot``, ``resilient snapshots …``."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from resilient import __version__
from resilient.config import Composed, check_drift, expand_sweep, load
from resilient.errors import ExitCode, ResilientError, UsageError
from resilient.fork import begin as begin_fork
from resilient.policy.state import PolicySettings
from resilient.protocol.paths import RunPaths, hostname
from resilient.slurm.environment import name_node
from resilient.slurm.excluding import distrusted_hosts
from resilient.slurm.job import SlurmJob
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.start import find_entry_point, supervise
from resilient.supervisor.status import Status

_TRAIN_HELP = """\
Train under supervision: relaunch after crashes, stop in time when preempted, resume bit-exactly.

  resilient train conf=demo                                  a built-in configuration
  resilient train conf=mine train.lr=1e-3                    ./conf/mine.yaml, with one value changed
  resilient train conf=path/to/x.yaml run.id=second          a file anywhere, another run
  resilient train conf=mine --cfg job                        print the configuration and stop
  resilient train conf=mine --multirun train.lr=1e-3,1e-4    one run for each value
  resilient train conf=script script=train.py -- --epochs 3  any script, unchanged; its arguments after --

  resilient train conf=mine run.id=b from=mine:good          a new run that begins with a snapshot of another one:
                                                             from=RUN:120, RUN:latest, RUN:best, or a snapshot's path

The same command started again resumes the run. Overrides are Hydra's:
https://hydra.cc/docs/advanced/override_grammar/basic
"""


_MODULES: Mapping[str, str] = {
    "submit": "resilient.submit_cli",
    "snapshot": "resilient.snapshots_cli.command",
    "snapshots": "resilient.snapshots_cli.command",
    "rollback": "resilient.rollback_cli.command",
    "drill": "resilient.drill.command",
    "doctor": "resilient.doctor.command",
    "replay": "resilient.replay_cli",
    "status": "resilient.status_cli",
    "report": "resilient.report_cli",
    "incidents": "resilient.incidents_cli",
    "verify": "resilient.verify_cli",
    "convert": "resilient.convert.command",
    "simulate": "resilient.simulate.command",
}
"""Where each command is, but for ``train``. What a command needs is imported for it alone: a job waits for that."""


def _parser(command: str | None = None) -> argparse.ArgumentParser:
    """That of one command, and of ``train``; of all commands if it is none of them."""
    codes = "\n".join(f"  {code.value:>3}  {code.description}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="resilient",
        description="Fault-tolerant training for PyTorch.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"resilient {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    train = commands.add_parser(
        "train",
        help="train under supervision",
        description=_TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("overrides", nargs="*", metavar="key=value", help="conf=NAME and changes to the configuration")
    train.add_argument("--cfg", choices=["job"], help="print the composed configuration and stop")
    train.add_argument("-m", "--multirun", action="store_true", help="run every combination of key=a,b values, in turn")
    if command != "train":
        own = _MODULES.get(command or "")
        for module in dict.fromkeys(_MODULES.values() if own is None else [own]):
            importlib.import_module(module).add_parser(commands)
    return parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides in any order, which argparse alone does not manage below a subcommand.

    What follows ``--`` is for the script that is trained, and nobody looks at it here.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words[0] if words else None)
    for_script = words.index("--") if words[:1] in (["train"], ["submit"]) and "--" in words else len(words)
    options, rest = parser.parse_known_args(words[:for_script])
    options.arguments = words[for_script + 1 :]
    unknown = [text for text in rest if text.startswith("-") or "=" not in text]
    if unknown:
        hint = "; arguments of the script go after --" if options.command in {"train", "submit"} else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if rest:
        options.overrides += rest
    return options


def train(
    conf: str,
    overrides: Sequence[str],
    *,
    multirun: bool,
    show: bool,
    arguments: Sequence[str] = (),
    origin: str | None = None,
) -> ExitCode:
    """Compose the configuration, or several, and supervise its run, or theirs one after the other.

    :param arguments: of the script, beside those in the configuration.
    :param origin: the snapshot of another run that it begins with.
    """
    jobs = list(expand_sweep(overrides)) if multirun else [("", list(overrides))]
    # all are checked before the first one starts
    composed = [load(conf, job, suffix=name, arguments=arguments) for name, job in jobs]
    if show:
        for item in composed:
            print(item.to_yaml(), end="")
        return ExitCode.FINISHED
    for item in composed:
        if origin is not None:
            _begin_fork(origin, item, lambda: _run_of(conf, overrides, arguments))
        exit_code = _train_one(item)
        if exit_code is not ExitCode.FINISHED:
            return exit_code
    return ExitCode.FINISHED


def _begin_fork(origin: str, composed: Composed, own: Callable[[], str]) -> None:
    """Make the run a fork, if it is none yet; what else would end it at once is looked at before."""
    config = composed.config
    find_entry_point(config.worker, Path.cwd())
    config.remote.require_filesystem()
    paths = RunPaths.of(config.run.dir, config.run.id)
    print(f"resilient: run {paths.run_id} {begin_fork(origin, paths, config.world_size, own)}", file=sys.stderr)


def _run_of(conf: str, overrides: Sequence[str], arguments: Sequence[str]) -> str:
    """The run that the configuration names by itself."""
    return load(conf, [text for text in overrides if not text.startswith("run.id=")], arguments=arguments).config.run.id


def _train_one(composed: Composed) -> ExitCode:
    config = composed.config
    several = config.node_settings is not None
    if several:
        name_node()
    paths = RunPaths.of(config.run.dir, config.run.id)
    console = Console()

    def record_config(journal: Journal) -> bool:
        status = Status.read(paths.status)
        corrected = status is not None and status.came_to_nothing
        free = {"worker.ranks"} if config.reshards else frozenset()
        changed = check_drift(paths.config, composed, allow=config.run.allow_drift or corrected, free=free)
        if changed:
            console.say("the configuration has changed: " + "; ".join(changed))
            journal.write("note", "configuration drift", 0.0, changed=changed)
            _keep_old(paths.config)
        if changed or not _says(paths.config, composed.to_yaml()):
            fresh = paths.fresh(paths.config)
            fresh.write_text(composed.to_yaml())
            fresh.replace(paths.config)
        return bool(changed) or _has_changed_since(paths)

    spec = RunSpec(
        paths=paths,
        allow_reshard=config.reshards,
        worker=config.worker,
        snapshot=config.snapshot,
        retention=config.retention,
        remote=config.remote,
        policy=PolicySettings(
            ranks=config.world_size,
            nodes=config.node_settings,
            restarts=config.restarts,
            hang=config.hang,
            stop=config.stop,
            stragglers=config.stragglers,
            divergence=config.divergence,
        ),
        fingerprint=config.fingerprint,
        logs=config.logs,
        console=config.console,
        group=config.group,
        trackers=config.trackers,
        peer=config.peer,
        train=config.train,
        directory=Path.cwd(),
        trust_node=config.run.trust_node,
        stop_after=config.run.stop_after or None,
    )
    job = SlurmJob.current(config.slurm, config.stop, distrusted_hosts(paths, hostname()), several=several)
    try:
        if several:
            from resilient.nodes.start import supervise_group  # noqa: PLC0415  most runs have one node

            return supervise_group(spec, record_config, console, job)
        return supervise(spec, record_config, console, job)
    finally:
        console.flush()


def _says(config: Path, text: str) -> bool:
    return config.exists() and config.read_text() == text


def _keep_old(config: Path) -> None:
    """Beside the new one, which takes its place in one step: other nodes start at the same time and read it."""
    old, number = config.read_bytes(), 1
    while (kept := config.with_name(f"config-{number:04d}.yaml")).exists():
        number += 1
    kept.write_bytes(old)


def _has_changed_since(paths: RunPaths) -> bool:
    """Whether a configuration has given way to another since the run was up last: another node was quicker to write it
    down, or a supervisor was killed before it could go on with it.
    """
    with suppress(OSError):
        last = paths.status.stat().st_mtime_ns
        return any(old.stat().st_mtime_ns > last for old in paths.root.glob("config-*.yaml"))
    return False


def _conf_of(overrides: Sequence[str]) -> tuple[str, list[str]]:
    named, rest = _taken("conf", overrides)
    if len(named) != 1 or not named[0]:
        raise UsageError("exactly one conf=NAME is needed", "for example: resilient train conf=demo")
    return named[0], rest


def _taken(key: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of a key that is no part of the configuration, and all other overrides."""
    given = [text.removeprefix(f"{key}=") for text in overrides if text.startswith(f"{key}=")]
    return given, [text for text in overrides if not text.startswith(f"{key}=")]


def _train(options: argparse.Namespace) -> ExitCode:
    conf, overrides = _conf_of(options.overrides)
    origins, overrides = _taken("from", overrides)
    if len(origins) > 1:
        raise UsageError("from= is given more than once", "a run begins with one snapshot")
    return train(
        conf,
        overrides,
        multirun=options.multirun,
        show=options.cfg is not None,
        arguments=options.arguments,
        origin=origins[0] if origins else None,
    )


def _configured(conf: str, overrides: Sequence[str]) -> RunPaths:
    """The run that a configuration names."""
    config = load(conf, list(overrides)).config
    return RunPaths.of(config.run.dir, config.run.id)


_CALLS: Mapping[str, Callable[[ModuleType, argparse.Namespace], int]] = {
    "submit": lambda submit, options: submit.run(options, *_conf_of(options.overrides)),
    "drill": lambda drill, options: drill.run(options, lambda conf, overrides: load(conf, overrides).tree),
    "doctor": lambda doctor, options: doctor.run(options, lambda conf, overrides: load(conf, overrides).config),
    "status": lambda status, options: status.run(options, _configured),
}
"""Those that need more than their options."""


def _run(options: argparse.Namespace) -> int:
    if options.command == "train":
        return _train(options)
    module = importlib.import_module(_MODULES[options.command])
    call = _CALLS.get(options.command)
    return int(module.run(options) if call is None else call(module, options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parse(arguments)
    try:
        return _run(options)
    except UsageError as error:
        print(f"resilient: {error}", file=sys.stderr)
        return int(ExitCode.USAGE)
    except ResilientError as error:
        print(f"resilient: {error}", file=sys.stderr)
        return int(error.exit_code)
    except Exception:  # noqa: BLE001  whatever it is, it is our bug, and the code must tell
        traceback.print_exc()
        print("resilient: this is a bug in resilient; please report it with the lines above", file=sys.stderr)
        return int(ExitCode.INTERNAL)


if __name__ == "__main__":
    sys.exit(main())
