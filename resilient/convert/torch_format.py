"""The format of ``torch.save``."""

from __future__ import annotations

import zipfile
from pathlib import Path

from resilient.convert.checkpoint import Format
from resilient.convert.torch_source import LEGACY, ZIP, TorchSource, first_bytes
from resilient.convert.torch_writer import TorchTarget


def _recognises(path: Path) -> bool:
    """By the names of the records, for other things are zip archives too."""
    if not path.is_file():
        return False
    beginning = first_bytes(path)
    if not beginning.startswith(ZIP):
        return beginning.startswith(LEGACY)
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return path.suffix in {".pt", ".pth", ".bin", ".ckpt"}  # it is cut short, and torch will say so


FORMAT = Format("torch", "a file of torch.save", _recognises, TorchSource, TorchTarget, suffix=".pt")
