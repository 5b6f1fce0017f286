"""Variables that a script sets for itself before it imports torch, and that would come too late in a warm process."""

from __future__ import annotations

import re
from pathlib import Path

# What is read when torch, or a library that comes with it, is imported. CUDA's own are read when the device is first
# used, which a warm process never does.
_NAMES = (
    r"(?:OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMEXPR|VECLIB|GOTO)_\w+|TORCH_LOGS\w*|TORCHDYNAMO_\w+|TORCHINDUCTOR_\w+"
    r"|TORCH_COMPILE\w*|PYTORCH_JIT\w*|TORCH_DEVICE_BACKEND_AUTOLOAD|NPY_\w+|NUMPY_\w+"
)
_SETTING = re.compile(
    rf"environ\s*(?:\[\s*['\"](?P<item>{_NAMES})['\"]\s*\]\s*=(?!=)|\.setdefault\(\s*['\"](?P<default>{_NAMES})['\"])"
    rf"|putenv\(\s*['\"](?P<put>{_NAMES})['\"]"
)
_LONGEST = 4 << 20


def variables_set_before_import(script: Path) -> list[str]:
    """Names of such variables in the text of the script, in alphabetical order."""
    try:
        with script.open("rb") as stream:
            text = stream.read(_LONGEST).decode(errors="replace")
    except OSError:
        return []
    return sorted({match[match.lastgroup or 0] for match in _SETTING.finditer(text)})
