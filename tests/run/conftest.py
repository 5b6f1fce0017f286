from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.protocol.tenancy import Tenant
from tests.run.harness import SCRIPT, RunCase, Workspace

# For scripts of one rank: what the default adds, torch's compiler, they do without; see `uncompiled.py`.
PRELOAD = "[torch, torch.utils.data, numpy]"

_CONFIG = f"""
worker:
  script: {SCRIPT}
  preload: {PRELOAD}
snapshot:
  every_steps: 10
train:
  steps: 60
  samples: 50
  batch_size: 4
  workers: 0
  step_seconds: 0.01
  raise_at: 0
  raise_once_at: 0
  stop_quietly_at: 0
  hang_at: 0
  hang_always: false
  evaluate_at: 0
  evaluate_seconds: 0.0
  daemon: false
  ballast_mb: 0
  owned_mb: 0
"""

_RANKS_CONFIG = f"""
worker:
  script: {SCRIPT.with_name("train_ranks.py")}
  ranks: 2
snapshot:
  every_steps: 10
train:
  steps: 60
  samples: 52
  batch_size: 4
  workers: 0
  step_seconds: 0.01
  terminate_at: 0
  accumulate: 1
"""

_SPREAD_CONFIG = f"""
worker:
  script: {SCRIPT.with_name("train_fsdp.py")}
  ranks: 2
snapshot:
  every_steps: 10
train:
  steps: 40
  samples: 52
  batch_size: 4
  step_seconds: 0.01
  replicas: 1
"""


_CHECKED_CONFIG = f"""
worker:
  script: {SCRIPT.with_name("train_checked.py")}
  preload: {PRELOAD}
snapshot:
  every_steps: 10
retention:
  last: 10
divergence:
  enabled: false
train:
  steps: 40
  poison_at: 0
  entropy: ""
  entropy_from: 1
  lineage: ""
"""

_DIVERGING_CONFIG = """
worker:
  script: {script}
  ranks: {ranks}
  preload: {preload}
snapshot:
  every_steps: 10
divergence:
  warmup_steps: 0
  good_after: 10
  margin: 2
  ladder: {{probation: 20}}
  replay: {{enabled: false}}
  metrics:
    loss:
      spike: {{window: 16, level_window: 4, history: 8, hits: 2, of: 3, patience: 5}}
      drift: {{enabled: false}}
train:
  steps: 60
  samples: 800
  batch_size: 4
  workers: 0
  step_seconds: 0.01
  deadly: []
  heavy: []
  raises: false
  consumed: ""
  lineage: ""
"""


def make_workspace(directory: Path) -> Workspace:
    (directory / "conf").mkdir()
    (directory / "conf" / "small.yaml").write_text(_CONFIG)
    (directory / "conf" / "ranks.yaml").write_text(_RANKS_CONFIG)
    (directory / "conf" / "checked.yaml").write_text(_CHECKED_CONFIG)
    script = SCRIPT.with_name("train_diverging.py")
    for name, ranks, preload in (("diverging", 1, PRELOAD), ("diverging_ranks", 2, "[torch, torch._dynamo, numpy]")):
        text = _DIVERGING_CONFIG.format(script=script, ranks=ranks, preload=preload)
        (directory / "conf" / f"{name}.yaml").write_text(text)
    (directory / "conf" / "spread.yaml").write_text(_SPREAD_CONFIG)
    return Workspace(directory)


def shared_memory(workspace: Workspace) -> list[Path]:
    """What the workspace's runs have in shared memory, on whichever node; other runs are none of our business."""
    runs = workspace.directory / "runs"
    found = {path: Tenant.read(path) for path in Path("/dev/shm").glob(f"resilient-{os.getuid()}-*")}
    return [path for path, tenant in found.items() if tenant is not None and Path(tenant.root).parent == runs]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace; afterwards no process of it is alive and nothing of it is left in shared memory."""
    workspace = make_workspace(tmp_path)
    yield workspace
    left = workspace.wait_until_alone()
    for process in left:
        process.kill()
    leftover = shared_memory(workspace)
    for path in leftover:
        shutil.rmtree(path)
    assert not left, f"processes left behind: {left}"
    assert not leftover, f"shared memory left behind: {leftover}"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run that nothing happened to."""
    case = make_workspace(tmp_path_factory.mktemp("reference")).run("reference")
    assert case.finish() == 0, case.output()
    return case
