"""The error file of ``torch.distributed.elastic``'s ``@record``, read without torch.

A decorated script writes it when it raises, before anything is torn down:
``{"message": {"message": "KeyError: 'x'", "extraInfo": {"py_callstack": …, "timestamp": "1700000000"}}}``, or with a
plain string in place of the inner object.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from resilient.protocol.launch import WorkerError

_LARGEST = 1 << 20  # bytes; it holds one call stack


def read_torch_error(path: Path) -> WorkerError | None:
    """The error in ``path``, or None when there is none that can be read."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        body = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None
    message: Any = body.get("message") if isinstance(body, dict) else None
    extra: Any = {}
    if isinstance(message, dict):
        extra = message.get("extraInfo")
        message = message.get("message")
    if not isinstance(message, str) or not message.strip():
        return None
    extra = extra if isinstance(extra, dict) else {}
    kind, text = _split(message.strip())
    lines = text.splitlines()
    callstack = str(extra.get("py_callstack", ""))
    return WorkerError(
        (kind,), lines[0] if lines else "", callstack, text[:4000], time=_seconds(extra.get("timestamp"))
    )


def _split(message: str) -> tuple[str, str]:
    """``KeyError`` and ``'x'``; whatever does not begin with the name of a class is a message without one."""
    kind, colon, text = message.partition(":")
    if kind.replace(".", "_").isidentifier() and (colon or kind[:1].isupper()):
        return kind.rpartition(".")[2], text.strip()
    return "Error", message


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
