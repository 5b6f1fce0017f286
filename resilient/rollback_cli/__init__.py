"""``resilient rollback``: a run goes on from an earlier snapshot, whether it is up or not."""

from __future__ import annotations

from resilient.rollback_cli.command import add_parser as add_parser
from resilient.rollback_cli.command import run as run

__all__ = ["add_parser", "run"]
