"""Which run is meant, by its name or by the path of its directory: the same words mean the same in every command."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from resilient.errors import RunNotFound, UsageError
from resilient.protocol.paths import RunPaths

SNAPSHOTS, JOURNAL = "snapshots", "journal"
_KEYS = ("run", "dir")


def known_runs(directory: Path, holding: str) -> dict[str, RunPaths]:
    """The runs in ``directory`` by name.

    :param holding: what a directory must have for being one: ``SNAPSHOTS`` or ``JOURNAL``.
    """
    if not directory.is_dir():
        return {}
    found = sorted(path.parent for path in directory.glob(f"*/{holding}") if not path.parent.name.startswith("."))
    return {path.name: RunPaths(path.absolute()) for path in found}


def find_run(named: str, directory: Path, holding: str = SNAPSHOTS) -> RunPaths:
    """The run of that name in ``directory``; or where there is a slash in it, the run in that directory.

    :raises ConfigurationError: no run can have that name.
    :raises RunNotFound: there is no such run; the message names the nearest, or those there are.
    """
    if "/" in named:
        directory, named = Path(named).absolute().parent, Path(named).absolute().name
    paths = RunPaths.of(directory, named)
    if (paths.root / holding).is_dir():
        return paths
    raise no_such_run(named, directory, holding)


def latest_run(directory: Path, holding: str = JOURNAL) -> RunPaths:
    """The run in ``directory`` in which something was begun last.

    :raises RunNotFound: there is none.
    """
    known = known_runs(directory, holding)
    if not known:
        raise no_such_run("", directory, holding)
    return max(known.values(), key=lambda paths: (paths.root / holding).stat().st_mtime)


def named_run(words: Sequence[str], holding: str = JOURNAL) -> RunPaths:
    """The run that a command line means: a name or a path, ``run=``, ``dir=``; the latest where nothing is said.

    :raises UsageError: the words make no sense.
    :raises RunNotFound: there is no such run.
    """
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    for key in pairs.keys() - set(_KEYS):
        close = difflib.get_close_matches(key, _KEYS, 1)
        raise UsageError(f"{key}= is not known here", f"did you mean {close[0]}=?" if close else "known are run=, dir=")
    plain = [*(word for word in words if "=" not in word), *filter(None, [pairs.get("run")])]
    if len(plain) > 1:
        raise UsageError(f"{plain[1]} is one word too many", "name one run")
    directory = Path(pairs.get("dir", "runs"))
    return find_run(plain[0], directory, holding) if plain else latest_run(directory, holding)


def no_such_run(named: str, directory: Path, holding: str = SNAPSHOTS) -> RunNotFound:
    """The error that says so."""
    known = list(known_runs(directory, holding))
    close = difflib.get_close_matches(named, known, 1)
    there = f"there are: {', '.join(known[:20])}" if known else "there are no runs; name their directory with dir=…"
    hint = f"did you mean {close[0]}?" if close else there
    return RunNotFound(f"there is no run {named or 'at all'} in {directory}", hint)
