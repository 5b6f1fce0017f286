"""What the commands print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any


def tell(options: argparse.Namespace, text: str, body: Mapping[str, Any]) -> None:
    """``text`` for a person, ``body`` for a program."""
    if options.json:
        print_json(body)
    else:
        print(text)


def print_json(body: Mapping[str, Any]) -> None:
    print(json.dumps(body, indent=1, allow_nan=False))
