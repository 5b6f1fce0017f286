"""Forks: a new run that begins with another run's snapshot."""

from __future__ import annotations

from resilient.fork.making import begin as begin

__all__ = ["begin"]
