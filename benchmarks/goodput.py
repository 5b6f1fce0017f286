"""The same job through the same faults: the wall time to the same step, under resilient and under five others' ways.

    python -m benchmarks.peers nvrx lightning transformers
    python -m benchmarks.goodput --json goodput.json

Definitions, method and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.goodput_account import Outcome, final_losses
from benchmarks.goodput_checks import check_ledger, check_outcome, differences
from benchmarks.goodput_contestants import CONTESTANTS, RESILIENT, Contestant, named, run_paths
from benchmarks.goodput_options import Options
from benchmarks.goodput_report import Figures, report
from benchmarks.goodput_run import Run
from benchmarks.goodput_trace import LEAST_STEPS, Fault, spike_of, trace
from benchmarks.recovery_launch import LaunchFailedError
from benchmarks.recovery_report import machine

_KEEP = 3
