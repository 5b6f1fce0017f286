"""Fault-tolerant training for PyTorch: a supervisor that keeps runs alive, and bit-exact resume.

>>> run = resilient.attach(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
>>> for step, batch in run.steps(total=20_000):
...     run.report(loss=training_step(batch))

Importing this package does not import torch; the first use of ``attach`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient.convert.opening import load as load
    from resilient.protocol.settings import FingerprintSettings as FingerprintSettings
    from resilient.protocol.settings import RetentionSettings as RetentionSettings
    from resilient.protocol.settings import SnapshotSettings as SnapshotSettings
    from resilient.worker.attach import attach as attach
    from resilient.worker.attach import config as config
    from resilient.worker.run import Run as Run

__version__ = "0.1.0"
__all__ = [
    "FingerprintSettings",
    "RetentionSettings",
    "Run",
    "SnapshotSettings",
    "__version__",
    "attach",
    "config",
    "load",
]

_HOME = {
    "attach": "resilient.worker.attach",
    "config": "resilient.worker.attach",
    "load": "resilient.convert.opening",
    "Run": "resilient.worker.run",
    "FingerprintSettings": "resilient.protocol.settings",
    "RetentionSettings": "resilient.protocol.settings",
    "SnapshotSettings": "resilient.protocol.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resilient' has no attribute {name!r}")
    import importlib  # noqa: PLC0415  only on first use

    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
