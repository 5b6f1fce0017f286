"""The commands of SLURM that a submission needs. What they print is parsed elsewhere; no shell is in between."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resilient.errors import SchedulerRefused, SchedulerSilent
from resilient.slurm.batch import Batch
from resilient.slurm.jobs import QUEUE_FORMAT, QueuedJob, parse_queue
from resilient.slurm.partitions import NODE_FORMAT, Node, Partition, parse_nodes, parse_partitions
from resilient.slurm.refusals import refusal

_SUBMIT_SECONDS = 60.0  # a job that was taken, and whose id we did not wait for, is the one mistake not to make
_TASTE = ("SQUEUE_", "SINFO_", "SCONTROL_")
# What `sbatch` also takes from the environment, where it would win over the batch file.
_FROM_ENVIRONMENT = {"time": "TIMELIMIT", "array": "ARRAY_INX", "mem": "MEM_PER_NODE"}


@dataclass(frozen=True)
class Client:
    """SLURM, as one reaches it from here.

    :param environment: for its commands.
    :param seconds: that a command which only looks may take.
    """

    environment: Mapping[str, str]
    seconds: float

    def partitions(self) -> list[Partition]:
        """All that the user may see.

        :raises SchedulerRefused: SLURM cannot be asked.
        """
        return parse_partitions(self._look("scontrol", "--all", "--oneliner", "show", "partition"))

    def nodes(self) -> list[Node]:
        """All nodes, once for each partition they are in.

        :raises SchedulerRefused: SLURM cannot be asked.
        """
        return parse_nodes(self._look("sinfo", "--all", "--noheader", "--Node", f"--format={NODE_FORMAT}"))

    def queue(self) -> list[QueuedJob]:
        """The user's jobs that are not over.

        :raises SchedulerRefused: SLURM cannot be asked.
        """
        user = f"--user={os.getuid()}"
        return parse_queue(self._look("squeue", "--noheader", "--array", user, f"--format={QUEUE_FORMAT}"))

    def submit(self, batch: Batch, partitions: Sequence[Partition]) -> str:
        """Submit a batch file that lies where it says; returns the job's id.

        :param partitions: to be named where one of them may help.
        :raises SchedulerRefused: SLURM does not take it.
        :raises SchedulerSilent: it is not known whether it has.
        """
        settled = {_variable(option.name) for option in batch.options} | {"SBATCH_OUTPUT", "SBATCH_OPEN_MODE"}
        if batch.requeues:
            settled.add("SBATCH_NO_REQUEUE")
        environment = {key: value for key, value in self.environment.items() if key not in settled}
        done = self._run("sbatch", "--parsable", str(batch.path), environment=environment, seconds=_SUBMIT_SECONDS)
        job = done.stdout.strip().split(";")[0]  # behind it, the name of the cluster
        if "timed out" in done.stderr and done.returncode:
            raise SchedulerSilent(f"SLURM did not answer: {done.stderr.strip()}", "see with squeue if it took the job")
        if done.returncode or not job.isdecimal():
            raise refusal(done.stderr or done.stdout, partitions)
        return job

    def _look(self, *command: str) -> str:
        # a user may have told squeue by a variable to show him the running jobs alone, or in colour
        plain = {key: value for key, value in self.environment.items() if not key.startswith(_TASTE)}
        done = self._run(*command, environment={**plain, "LC_ALL": "C"}, seconds=self.seconds)
        if done.returncode:
            raise refusal(done.stderr or f"{command[0]} ended with exit code {done.returncode}", [])
        return done.stdout

    def _run(self, *command: str, environment: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except FileNotFoundError:
            raise SchedulerRefused(
                f"there is no {command[0]} on this machine",
                "submit from a machine that has SLURM's commands, or train here: resilient train",
            ) from None
        except subprocess.TimeoutExpired:
            raise SchedulerSilent(f"{command[0]} did not answer within {seconds:g} s", "try again later") from None


def _variable(option: str) -> str:
    return f"SBATCH_{_FROM_ENVIRONMENT.get(option, option.upper().replace('-', '_'))}"
