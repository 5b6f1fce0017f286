"""DeepSpeed's two formats."""

from __future__ import annotations

from resilient.convert.checkpoint import Format
from resilient.convert.deepspeed.directory import is_checkpoint, is_universal
from resilient.convert.deepspeed.universal import UniversalSource
from resilient.convert.deepspeed.universal_target import UniversalTarget
from resilient.convert.deepspeed.zero import ZeroSource

UNIVERSAL = Format("deepspeed", "a universal checkpoint of DeepSpeed's", is_universal, UniversalSource, UniversalTarget)
ZERO = Format("zero", "a checkpoint of DeepSpeed's ZeRO", is_checkpoint, ZeroSource)
