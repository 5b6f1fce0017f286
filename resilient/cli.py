"""The command line: ``resilient train conf=NAME key=value …``, ``resilient snapshot``, ``resilient snapshots …``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from resilient import __version__, incidents_cli, replay_cli, snapshots_cli
from resilient.config import Composed, check_drift, expand_sweep, load
from resilient.drill import command as drill
from resilient.errors import ExitCode, ResilientError, UsageError
from resilient.policy.state import PolicySettings
from resilient.protocol.paths import RunPaths
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.start import supervise
from resilient.supervisor.status import Status

_TRAIN_HELP = """\
Train under supervision: relaunch after crashes, stop in time when preempted, resume bit-exactly.

  resilient train conf=demo                                  a built-in configuration
  resilient train conf=mine train.lr=1e-3                    ./conf/mine.yaml, with one value changed
  resilient train conf=path/to/x.yaml run.id=second          a file anywhere, another run
  resilient train conf=mine --cfg job                        print the configuration and stop
  resilient train conf=mine --multirun train.lr=1e-3,1e-4    one run for each value
  resilient train conf=script script=train.py -- --epochs 3  any script, unchanged; its arguments after --

The same command started again resumes the run. Overrides are Hydra's:
https://hydra.cc/docs/advanced/override_grammar/basic
"""


def _parser() -> argparse.ArgumentParser:
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
    snapshots_cli.add_parsers(commands)
    drill.add_parser(commands)
    replay_cli.add_parser(commands)
    incidents_cli.add_parser(commands)
    return parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides in any order, which argparse alone does not manage below a subcommand.

    What follows ``--`` is for the script that is trained, and nobody looks at it here.
    """
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    for_script = words.index("--") if words[:1] == ["train"] and "--" in words else len(words)
    options, rest = parser.parse_known_args(words[:for_script])
    options.arguments = words[for_script + 1 :]
    unknown = [text for text in rest if text.startswith("-") or "=" not in text]
    if unknown:
        hint = "; arguments of the script go after --" if options.command == "train" else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if rest:
        options.overrides += rest
    return options


def train(
    conf: str, overrides: Sequence[str], *, multirun: bool, show: bool, arguments: Sequence[str] = ()
) -> ExitCode:
    """Compose the configuration, or several, and supervise its run, or theirs one after the other.

    :param arguments: of the script, beside those in the configuration.
    """
    jobs = list(expand_sweep(overrides)) if multirun else [("", list(overrides))]
    # all are checked before the first one starts
    composed = [load(conf, job, suffix=name, arguments=arguments) for name, job in jobs]
    if show:
        for item in composed:
            print(item.to_yaml(), end="")
        return ExitCode.FINISHED
    for item in composed:
        exit_code = _train_one(item)
        if exit_code is not ExitCode.FINISHED:
            return exit_code
    return ExitCode.FINISHED


def _train_one(composed: Composed) -> ExitCode:
    config = composed.config
    paths = RunPaths.of(config.run.dir, config.run.id)
    console = Console()

    def record_config(journal: Journal) -> bool:
        status = Status.read(paths.status)
        corrected = status is not None and status.came_to_nothing
        free = {"worker.ranks"} if config.run.allow_reshard else frozenset()
        changed = check_drift(paths.config, composed, allow=config.run.allow_drift or corrected, free=free)
        if changed:
            console.say("the configuration has changed: " + "; ".join(changed))
            journal.write("note", "configuration drift", 0.0, changed=changed)
            _keep_old(paths.config)
        if changed or not paths.config.exists():
            fresh = paths.config.with_suffix(".new")
            fresh.write_text(composed.to_yaml())
            fresh.replace(paths.config)
        return bool(changed)

    spec = RunSpec(
        paths=paths,
        allow_reshard=config.run.allow_reshard,
        worker=config.worker,
        snapshot=config.snapshot,
        retention=config.retention,
        remote=config.remote,
        policy=PolicySettings(
            ranks=config.worker.ranks,
            restarts=config.restarts,
            hang=config.hang,
            stop=config.stop,
            stragglers=config.stragglers,
        ),
        logs=config.logs,
        console=config.console,
        train=config.train,
        directory=Path.cwd(),
    )
    try:
        return supervise(spec, record_config, console)
    finally:
        console.flush()


def _keep_old(config: Path) -> None:
    number = 1
    while (kept := config.with_name(f"config-{number:04d}.yaml")).exists():
        number += 1
    config.replace(kept)


def _conf_of(overrides: Sequence[str]) -> tuple[str, list[str]]:
    named = [text.removeprefix("conf=") for text in overrides if text.startswith("conf=")]
    if len(named) != 1 or not named[0]:
        raise UsageError("exactly one conf=NAME is needed", "for example: resilient train conf=demo")
    return named[0], [text for text in overrides if not text.startswith("conf=")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parse(arguments)
    try:
        if options.command == "drill":
            return int(drill.run(options, lambda conf, overrides: load(conf, overrides).tree))
        if options.command == "replay":
            return int(replay_cli.run(options))
        if options.command == "incidents":
            return int(incidents_cli.run(options))
        if options.command != "train":
            return int(snapshots_cli.run(options))
        conf, overrides = _conf_of(options.overrides)
        show = options.cfg is not None
        return int(train(conf, overrides, multirun=options.multirun, show=show, arguments=options.arguments))
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
