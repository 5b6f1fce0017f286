"""The Python environment: versions, and the packages that some of the features need."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem
from resilient.doctor.world import World

_LEAST_PYTHON = (3, 10)
_LEAST_TORCH = (2, 4)
_EXTRAS = {
    "s3fs": "a remote tier in S3 (pip install 'resilient[s3]')",
    "matplotlib": "plots (pip install 'resilient[plot]')",
}


def version_of(text: str) -> tuple[int, ...]:
    """``(2, 4)`` of ``2.4.1+cu121``."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:2])


def judge_torch(installed: str | None) -> Finding:
    """Of the version that is installed, if one is."""
    if installed is None:
        return problem("torch is not installed here, so nothing can be trained", "pip install torch")
    if version_of(installed) < _LEAST_TORCH:
        least = ".".join(map(str, _LEAST_TORCH))
        return problem(f"torch {installed} is too old: {least} is the first that works", "pip install -U torch")
    return ok(f"torch {installed}")


def judge_python(version: tuple[int, ...]) -> Finding:
    text = ".".join(map(str, version))
    if version < _LEAST_PYTHON:
        return problem(f"Python {text} is too old", "use Python 3.10 or newer")
    return ok(f"Python {text}")


def _torch(_world: World) -> Finding:
    try:
        return judge_torch(importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return judge_torch(None)


def _extras(_world: World) -> Finding:
    missing = [name for name in _EXTRAS if importlib.util.find_spec(name) is None]
    if not missing:
        return ok(f"the optional packages are here: {', '.join(_EXTRAS)}")
    return note("not installed, and needed only for: " + "; ".join(f"{name}: {_EXTRAS[name]}" for name in missing))


CHECKS = (
    Check("python.version", "the version of Python", lambda _world: judge_python(sys.version_info[:3])),
    Check("python.torch", "the version of torch", _torch),
    Check("python.extras", "optional packages", _extras),
)
