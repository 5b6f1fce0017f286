"""The direction of dependencies, read from the source: lower layers know nothing of higher ones, torch stays out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient

PACKAGE = Path(resilient.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A unit may import itself and units of a strictly lower rank.
RANKS = {
    "errors": 0,
    "policy": 1,
    "protocol": 2,
    "snapshot": 3,
    "supervisor": 4,
    "worker": 4,
    "convert": 5,
    "drill": 5,
    "integrations": 5,
    "nodes": 5,
    "report": 5,
    "runs": 5,
    "simulate": 5,
    "slurm": 5,
    "trackers": 5,
    "verify": 5,
    "entry": 5,
    "config": 6,
    "doctor": 6,  # it looks at all of them
    "incidents_cli": 6,
    "report_cli": 6,
    "status_cli": 6,
    "snapshots_cli": 6,
    "verify_cli": 6,
    "fork": 7,
    "replay_cli": 7,
    "rollback_cli": 7,
    "submit_cli": 7,
    "cli": 8,  # above `config`, and the two together are the outermost layer
    "__main__": 9,
}
HYDRA_UNITS = {"config", "cli"}
TORCH_UNITS = {"worker", "convert", "integrations"}
IMPURE = {"time", "os", "io", "random", "logging", "pathlib", "torch", "psutil"}


def unit_of(path: Path) -> str:
    """``policy`` for ``policy/machine.py``, ``cli`` for ``cli.py``, nothing for the package itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(source: str) -> Iterator[str]:
    """Absolute dotted names of everything a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(unit: str, source: str) -> list[str]:
    """What ``source``, a module of ``unit``, imports and must not."""
    found = []
    for name in imports(source):
        root, *rest = name.split(".")
        if root in {"hydra", "omegaconf"} and unit not in HYDRA_UNITS:
            found.append(f"{name}: configuration is composed in config and cli alone")
        if root == "torch" and unit not in TORCH_UNITS:
            found.append(f"{name}: torch is the worker's side")
        if root in IMPURE and unit == "policy":
            found.append(f"{name}: the decision core is pure")
        if root == "resilient" and unit and rest[0] in RANKS and rest[0] != unit and RANKS[rest[0]] >= RANKS[unit]:
            found.append(f"{name}: {rest[0]} does not lie below {unit}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    unit = unit_of(path)
    assert unit in {"", *RANKS}, f"{unit} is new: give it a rank here"
    assert violations(unit, path.read_text()) == []


def test_the_walk_sees_every_layer() -> None:
    assert {"", "errors", "policy", "protocol", "snapshot", "supervisor", "worker", "config", "cli"} <= {
        unit_of(path) for path in MODULES
    }


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("policy", "from resilient.protocol.board import Board"),
        ("protocol", "import resilient.snapshot.image"),
        ("snapshot", "from resilient import worker"),
        ("worker", "from resilient.supervisor import loop"),
        ("supervisor", "def later():\n    from resilient.worker.run import Run"),
        ("report", "from resilient.drill import faults"),
        ("drill", "from resilient import cli"),
        ("worker", "from omegaconf import OmegaConf"),
        ("supervisor", "import hydra.utils"),
        ("snapshot", "import torch.nn"),
        ("supervisor", "if True:\n    from torch import nn"),
        *(("policy", f"import {name}") for name in sorted(IMPURE)),
        ("policy", "from os.path import join"),
    ],
)
def test_a_wrong_import_is_found(unit: str, source: str) -> None:
    assert violations(unit, source)


def _modules_after(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import resilient",
        "import resilient.supervisor.start, resilient.cli",
        "import resilient.supervisor.drain_process",
        "import resilient.nodes.replica_process",
        "import resilient.verify.__main__",
    ],
)
def test_torch_is_not_imported_by(statement: str) -> None:
    loaded = _modules_after(statement)
    assert "resilient" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize(
    "statement",
    [
        "import resilient",
        "import resilient.supervisor.start, resilient.cli",
        "import resilient.supervisor.drain_process",
        "from resilient.protocol.remote_settings import RemoteSettings; RemoteSettings('s3://b').require_filesystem()",
    ],
)
def test_fsspec_is_not_imported_by(statement: str) -> None:
    assert not {"fsspec", "s3fs", "aiobotocore", "botocore"} & _modules_after(statement)


def test_no_trackers_package_is_imported_by_the_supervisor() -> None:
    loaded = _modules_after("import resilient.supervisor.start, resilient.cli")
    assert not {"wandb", "tensorboard", "resilient.trackers", "urllib.request", "http.server"} & loaded


def test_the_first_use_of_attach_imports_torch() -> None:
    assert "torch" in _modules_after("import resilient; resilient.attach")


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(resilient, name) is not None for name in resilient.__all__)
    assert dir(resilient) == resilient.__all__
    with pytest.raises(AttributeError, match="resilient"):
        resilient.attach_model  # noqa: B018  the access is what is tested
