"""What ``nvidia-smi`` says, read without running it."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.doctor.finding import Finding, problem

FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "ecc.errors.uncorrected.volatile.total",
    "compute_mode",
)
QUERY = (f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")

# What it says when it cannot do its work, and what helps.
_FAILURES = {
    "couldn't communicate with the NVIDIA driver": "the driver is not loaded: ask whoever runs this machine",
    "Driver/library version mismatch": "the driver was updated while it was loaded: the machine has to be restarted",
    "NVML: Unknown Error": "the container has lost its devices, as after systemctl daemon-reload: start it again",
    "GPU is lost": "a GPU has fallen off the bus: the machine has to be restarted; use another until then",
    "Unable to determine the device handle": "a GPU does not answer: the machine has to be restarted",
    "Insufficient Permissions": "this user may not use the GPUs: ask for access, or for --gres=gpu:…",
    "No devices were found": "no GPU was given to this job: ask for one, --gres=gpu:… or docker run --gpus all",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    :param total: MiB of memory; ``used`` are taken.
    :param errors: memory errors that could not be corrected since the driver was loaded; None without ECC.
    """

    index: str
    uuid: str
    name: str
    total: int | None
    used: int | None
    errors: int | None
    compute_mode: str


def parse(output: str) -> list[Gpu]:
    """The GPUs; a line that is not understood is left out."""
    rows = [[word.strip() for word in line.split(",")] for line in output.splitlines()]
    return [
        Gpu(row[0], row[1], row[2], _number(row[3]), _number(row[4]), _number(row[5]), row[6])
        for row in rows
        if len(row) == len(FIELDS) and row[0].isdecimal()
    ]


def explained(output: str) -> Finding:
    """Of a call that has failed."""
    known = next((remedy for text, remedy in _FAILURES.items() if text in output), None)
    line = next((line.strip() for line in output.splitlines() if line.strip()), "it says nothing")
    return problem(f"nvidia-smi fails: {line}", known or "run nvidia-smi, and ask whoever runs this machine")


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
