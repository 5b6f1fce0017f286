"""Starting one of our own modules in a process of its own.

``python -m`` puts the working directory first among the places where modules are looked for, and that is the user's: a
``queue.py`` or ``token.py`` there would be imported by everything that we and torch import, in place of Python's.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Not `-P` or `-I`, which Python 3.10 does not know, and which a script and what it starts would inherit.
_CODE = """\
import sys
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]
import importlib
try:
    import resilient
except ImportError:
    sys.path.append(sys.argv[1])
sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))
"""
_PLACE = str(Path(__file__).parents[2])  # of this package: it may be found through the working directory alone


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that calls ``main(arguments)`` of ``module``, without the working directory in ``sys.path``."""
    return [sys.executable, "-c", _CODE, _PLACE, module, *arguments]
