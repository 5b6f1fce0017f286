"""What is done about each class of failure, as data: how often it is tried again, how long that waits, what a person
is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resilient.errors import ExitCode
from resilient.policy.failure_class import FailureClass

_RESUMES = "Then start the same command again: it resumes."


@dataclass(frozen=True)
class Treatment:
    """The remedy for one class.

    :param remedy: what is done about it, in the words of the incident.
    :param failures: so many failures of the class since the run last moved forward stop it; None where only the
        general budgets hold.
    :param after_progress: the failure of the round that did move forward counts as well.
    :param same_step: only failures at the step of the last one count.
    :param same_rank: only failures of the rank of the last one count: where there are many machines, two in a row that
        are bad say nothing about a third one.
    :param exit_code: how the run ends when it is given up for this.
    :param why: what the number of failures proves.
    :param advice: what a person does next.
    :param least_wait: seconds; before a relaunch there is never less.
    """

    remedy: str = "relaunch"
    failures: int | None = None
    after_progress: bool = True
    same_step: bool = False
    same_rank: bool = False
    exit_code: ExitCode = ExitCode.BUDGET_SPENT
    why: str = "a relaunch does not cure this"
    advice: str = f"The machine may be bad: start again elsewhere, or raise the limits under restarts. {_RESUMES}"
    least_wait: float = 0.0


TREATMENTS: Mapping[FailureClass, Treatment] = {
    FailureClass.KILLED: Treatment(
        advice="Something outside kills the workers and leaves no trace of running out of memory: ask the machine's "
        f"administrator or its scheduler. {_RESUMES}",
    ),
    FailureClass.CRASH: Treatment(
        advice="Native code crashes: look at the end of the worker's log, set worker.env.PYTHONFAULTHANDLER=1 for the "
        f"Python line, and try another machine or other versions of the extensions. {_RESUMES}",
    ),
    FailureClass.HARDWARE: Treatment(
        remedy="relaunch; this node should be left out",
        failures=3,
        same_rank=True,
        why="the hardware is at fault",
        advice=f"Take this node out of service (nvidia-smi -q, dmesg) and start elsewhere. {_RESUMES}",
    ),
    FailureClass.HOST_OOM: Treatment(
        remedy="relaunch once from the last snapshot",
        failures=2,
        exit_code=ExitCode.WORKER_ERROR,
        why="again at once, so it needs more memory than there is",
        advice="Give the job more memory, or use less: fewer DataLoader workers, a smaller prefetch_factor, "
        f"snapshot.slots=2. The curve is in memory.csv. {_RESUMES}",
    ),
    FailureClass.DEVICE_OOM: Treatment(
        remedy="relaunch once",
        failures=2,
        exit_code=ExitCode.WORKER_ERROR,
        why="the same allocation fails again",
        advice="Use less device memory (a smaller batch, activation checkpointing, "
        f"worker.env.PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True). {_RESUMES}",
    ),
    FailureClass.DEVICE_ERROR: Treatment(
        remedy="relaunch; at the same step again it is the program, elsewhere the device",
        failures=2,
        same_step=True,
        exit_code=ExitCode.WORKER_ERROR,
        why="at the same step again, so it is the program and not the device",
        advice=f"Run it with worker.env.CUDA_LAUNCH_BLOCKING=1 to see which operation it is. {_RESUMES}",
    ),
    FailureClass.DEVICE_ASSERT: Treatment(
        remedy="stop",
        failures=1,
        exit_code=ExitCode.WORKER_ERROR,
        why="the program asserts it, and would again",
        advice="An index is out of range, most often a label or a token: the line with “Assertion” in the log says "
        f"which; worker.env.CUDA_LAUNCH_BLOCKING=1 shows where. {_RESUMES}",
    ),
    FailureClass.CODE: Treatment(
        remedy="stop; after progress relaunch once",
        failures=1,
        after_progress=False,
        exit_code=ExitCode.WORKER_ERROR,
        advice=f"Correct the script or its settings. {_RESUMES}",
    ),
    FailureClass.APPLICATION: Treatment(
        exit_code=ExitCode.CRASH_LOOP,
        advice=f"Look at the traceback in the worker's log and correct the script. {_RESUMES}",
    ),
    FailureClass.DECLARED: Treatment(
        remedy="stop",
        failures=1,
        exit_code=ExitCode.WORKER_ERROR,
        why="the script itself says that it must not be started again",
        advice=f"Look at what it printed; worker.exit_codes says what its exit codes mean. {_RESUMES}",
    ),
    FailureClass.NUMERIC: Treatment(
        remedy="relaunch once from the last snapshot",
        failures=2,
        exit_code=ExitCode.DIVERGED,
        why="again after resuming exactly, so it is the data or the optimization",
        advice="Look at the loss before it; a lower learning rate, gradient clipping or other data may help. "
        "With another setting, run.allow_drift=true resumes.",
    ),
    FailureClass.DATA: Treatment(
        advice="A DataLoader worker dies: look for memory (also /dev/shm) and for the sample it read last; "
        f"num_workers=0 shows its own error. {_RESUMES}",
    ),
    FailureClass.TRANSIENT_IO: Treatment(
        remedy="wait, then relaunch",
        advice=f"Storage or network does not answer: check the mount, the endpoint and the credentials. {_RESUMES}",
        least_wait=5.0,
    ),
    FailureClass.DISK: Treatment(
        remedy="relaunch once, carry on in memory",
        failures=2,
        exit_code=ExitCode.DISK_FULL,
        advice=f"Free space in the run directory, and wherever else the script writes. {_RESUMES}",
    ),
    FailureClass.BAD_SNAPSHOT: Treatment(
        remedy="set it aside, resume from another copy or an older one",
        advice="Snapshots are damaged again and again: suspect the disk or the memory of this machine. "
        "resilient snapshots verify run=… reads them all.",
    ),
    FailureClass.BAD_CHECKPOINT: Treatment(
        remedy="relaunch once",
        failures=2,
        exit_code=ExitCode.WORKER_ERROR,
        why="the file is still unreadable",
        advice="The script loads a checkpoint of its own that is truncated or damaged: remove it, or point the script "
        f"to an older one. {_RESUMES}",
    ),
    FailureClass.HANG: Treatment(
        remedy="kill and relaunch",
        exit_code=ExitCode.HUNG,
        advice="Look at the stacks and the worker's log for what it waits for, or, if it was only slow, raise "
        f"hang.min_seconds, for a start-up hang.startup_seconds. {_RESUMES}",
    ),
    FailureClass.NETWORK: Treatment(
        advice="Ranks lost each other and none of them failed before: check the links between them; "
        f"worker.env.NCCL_DEBUG=INFO says more. {_RESUMES}",
        least_wait=1.0,
    ),
    FailureClass.ECHO: Treatment(advice="Look at the logs of the other ranks for what failed before."),
    FailureClass.UNFINISHED: Treatment(
        exit_code=ExitCode.CRASH_LOOP,
        advice="The script ends with exit code 0 before the run says that it is finished: let it iterate over "
        f"run.steps(…), or set worker.finished_by=exit_code. {_RESUMES}",
    ),
    FailureClass.PREEMPTION: Treatment(
        advice="Something outside sends SIGTERM to the workers again and again, and not to the supervisor: "
        f"ask the machine's administrator or its scheduler. {_RESUMES}",
    ),
    FailureClass.SUPERVISOR_LOST: Treatment(remedy="take over"),
    FailureClass.NODE_LOST: Treatment(
        remedy="gather the nodes that are left, with a spare in its place where there is one",
        advice="Nodes are lost again and again before there is any progress: look at the end of their journals, and at "
        f"the network between them. {_RESUMES}",
    ),
}

CRASH_LOOP_EXITS: Mapping[FailureClass, ExitCode] = {FailureClass.HANG: ExitCode.HUNG}
"""How a crash loop ends, where it has a name of its own."""


def treatment(failure_class: FailureClass) -> Treatment:
    """What is done about failures of this class."""
    return TREATMENTS[failure_class]
