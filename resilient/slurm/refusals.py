"""What ``sbatch`` says when it takes no job, and the setting that it means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from resilient.errors import SchedulerRefused
from resilient.slurm.partitions import Partition, named

_PREFIX = re.compile(
    r"^(?:sbatch|squeue|scontrol|allocation failure): (?:(?:error|fatal): )?(?:Batch job submission failed: )?"
)
_OPTION = re.compile(r"(?:Invalid|unrecognized option '?|invalid) ?--([a-z-]+)")

# The first that is found counts. The texts are those of SLURM's own table of errors, and of `sbatch`.
_MEANT: tuple[tuple[str, str], ...] = (
    ("User's group not permitted to use this partition", "partition"),
    ("Invalid account or account/partition combination", "account, or slurm.partition"),
    ("Access/permission denied", "partition, or slurm.account"),
    ("invalid partition specified", "partition"),
    ("Invalid partition name", "partition"),
    ("Required partition not available", "partition"),
    ("partition is in an unavailable state", "partition"),
    ("No partition specified", "partition"),
    ("Invalid account", "account"),
    ("Invalid qos", "qos"),
    ("Job violates accounting/QOS policy", "qos, slurm.nodes or slurm.time"),
    ("Requested time limit is invalid", "time"),
    ("Invalid feature", "constraint"),
    ("generic resource (gres)", "gres"),
    ("Memory specification can not be satisfied", "mem"),
    ("Memory required by task is not available", "mem"),
    ("Node count specification invalid", "nodes"),
    ("More processors requested than permitted", "cpus_per_task"),
    ("CPU count per node can not be satisfied", "cpus_per_task"),
    ("is not a valid node count", "nodes"),
    ("Invalid node name", "exclude"),
    ("Invalid job array", "array"),
    ("reservation", "extra"),
    ("license", "extra"),
    ("Requested node configuration is not available", "nodes, slurm.cpus_per_task, slurm.mem or slurm.exclude"),
)
_SETTINGS = {"time": "time", "mem": "mem", "array": "array", "cpus-per-task": "cpus_per_task"}
_AWAY = (
    "Unable to contact slurm controller",
    "Could not establish a configuration source",
    "Unable to process configuration file",
    "Connection refused",
    "Socket timed out",
    "Munge",
)


def refusal(said: str, partitions: Sequence[Partition]) -> SchedulerRefused:
    """The error for what ``sbatch`` wrote on its standard error.

    :param partitions: those of the cluster, if they are known; they are named where one of them may help.
    """
    lines = [_PREFIX.sub("", line).strip() for line in said.splitlines() if line.strip()]
    told = "; ".join(dict.fromkeys(line for line in lines if not line.startswith("Try "))) or "it did not say why"
    if any(text in said for text in _AWAY):
        return SchedulerRefused(
            f"SLURM cannot be reached: {told}", "try again later, or on a machine from which `sinfo` works"
        )
    setting = next((setting for text, setting in _MEANT if text.lower() in said.lower()), "") or _by_option(said)
    known = f"; {named(partitions)}" if partitions else ""
    if not setting:
        return SchedulerRefused(f"SLURM refuses the job: {told}", f"change what is set in the section slurm{known}")
    return SchedulerRefused(f"SLURM refuses the job: {told}", f"change slurm.{setting}{known}")


def _by_option(said: str) -> str:
    match = _OPTION.search(said)
    return "" if match is None else _SETTINGS.get(match[1], f"extra ({match[1]})")
