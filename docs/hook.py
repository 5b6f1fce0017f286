"""What mkdocs calls while it builds: adds the pages that are made from the code, and fills in what stands elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs takes it away again once this file is imported

from generate import commands, configuration, exit_codes, failures, formats, interface, states
from generate.inclusion import included

_PAGES = {
    "reference/configuration.md": configuration.page,
    "reference/commands.md": commands.page,
    "reference/exit-codes.md": exit_codes.page,
    "reference/failures.md": failures.page,
    "reference/states.md": states.page,
    "reference/python.md": interface.page,
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add what is generated."""
    for path, page in _PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001  mkdocs names them
    """Fill in sections of other files, and pieces of the file formats."""
    for name, text in formats.pieces().items() if page.file.src_uri == "reference/formats.md" else ():
        markdown = markdown.replace(f"<!-- format: {name} -->", text)
    return included(markdown, page.file.src_uri)
