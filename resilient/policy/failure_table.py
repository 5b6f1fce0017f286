"""The failure catalogue as data: what is seen, where, and what it is called.

The rows stand in the order in which they are tried; the first that matches gives the name. Three things can be looked
at: the message of the exception that ended the script, lines of the rank's log, and lines of the kernel's log. A row
names those in which its pattern is a proof. A log says much that is no failure ("connection reset, retrying"), so only
what a dying library writes is believed there; the end of a traceback in the log is read as an exception.

The messages are those of CUDA, NCCL, gloo, c10d, the NVIDIA driver, the kernel, SLURM and the storage clients, as their
issue threads show them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from resilient.policy.failure_class import FailureClass

EXCEPTION, LOG, KERNEL = "exception", "log", "kernel"
_ANY = frozenset({EXCEPTION, LOG, KERNEL})
_USER = frozenset({EXCEPTION, LOG})


@dataclass(frozen=True)
class Row:
    """One row of the catalogue.

    :param seen: searched in one message or line; case counts only where the pattern says so.
    :param alone: for an echo: what it is when no other rank has an earlier failure that is none.
    """

    seen: re.Pattern[str]
    failure_class: FailureClass
    where: frozenset[str] = frozenset({EXCEPTION})
    alone: FailureClass | None = None


def _row(
    failure_class: FailureClass,
    pattern: str,
    where: frozenset[str] = frozenset({EXCEPTION}),
    *,
    alone: FailureClass | None = None,
    exact: bool = False,
) -> Row:
    return Row(re.compile(pattern, 0 if exact else re.IGNORECASE), failure_class, where, alone)


# Of NVIDIA's Xid numbers these are a program's errors, or what the driver says after a process was killed; all others
# are the device's, its memory's, its links' or its driver's. https://docs.nvidia.com/deploy/xid-errors
_PROGRAMS_XIDS = r"(?:13|31|32|43|45|68|69|109)\b"
_BEFORE_NUMBER = r"(?: \([^)]*\):| error:?|:)?\s+"

ROWS: tuple[Row, ...] = (
    # --- hardware
    _row(FailureClass.HARDWARE, rf"\bXid{_BEFORE_NUMBER}(?!{_PROGRAMS_XIDS})\d+\b", _ANY, exact=True),
    _row(FailureClass.HARDWARE, r"ECC.{0,40}(uncorrectable|\bDBE\b|double.bit)|(uncorrectable|double.bit) ECC", _ANY),
    _row(FailureClass.HARDWARE, r"fallen off the bus|GPU is lost\b", _ANY),
    _row(FailureClass.HARDWARE, r"NVLink.{0,60}\b(fatal|uncorrectable)\b|uncorrectable NVLink error", _ANY),
    _row(FailureClass.HARDWARE, r"PCIe Bus Error: severity=Uncorrect|AER:.{0,40}\buncorrect\w* \(fatal\)", _ANY),
    _row(FailureClass.HARDWARE, r"\[Hardware Error\]: Machine check|mce: .*uncorrect", frozenset({KERNEL})),
    # --- preemption
    _row(
        FailureClass.PREEMPTION,
        r"CANCELLED AT .{0,40}DUE TO (PREEMPTION|TIME LIMIT|NODE FAILURE)|\bDUE TO TIME LIMIT\b|\bNODE_FAIL\b",
        _USER,
        exact=True,
    ),
    _row(FailureClass.PREEMPTION, r"\b(job|task|instance|node|vm|pod) (was|has been|is being) preempted\b", _USER),
    # --- memory
    _row(
        FailureClass.HOST_OOM,
        r"out of memory: Killed process \d+|Killed process \d+ .*(total-vm|anon-rss)",
        frozenset({KERNEL}),
    ),
    _row(FailureClass.HOST_OOM, r"Detected \d+ oom[_-]kill event|\boom-kill event", _USER),
    _row(FailureClass.HOST_OOM, r"DefaultCPUAllocator: (can't|not enough|cannot) (allocate )?memory", _USER),
    _row(FailureClass.HOST_OOM, r"std::bad_alloc|Unable to allocate .{0,40} for an array with shape", _USER),
    _row(FailureClass.HOST_OOM, r"\[Errno 12\]|Cannot allocate memory"),
    _row(FailureClass.DEVICE_OOM, r"(CUDA|HIP|XPU|NPU) out of memory|CUDA error: out of memory", _USER),
    _row(FailureClass.DEVICE_OOM, r"CU(BLAS|DNN|SPARSE|SOLVER)_STATUS_ALLOC_FAILED", _USER),
    _row(FailureClass.DEVICE_OOM, r"Cuda failure (\d+ )?'out of memory'", _USER),
    # --- the device
    _row(FailureClass.DEVICE_ASSERT, r"device-side assert triggered|CUDA_ERROR_ASSERT\b", _USER),
    _row(FailureClass.DEVICE_ASSERT, r"block: \[\d+,\d+,\d+\], thread: \[\d+,\d+,\d+\] Assertion .* failed", _USER),
    _row(
        FailureClass.DEVICE_ERROR,
        r"an illegal memory access was encountered|CUDA_ERROR_ILLEGAL_ADDRESS|unspecified launch failure"
        r"|an illegal instruction was encountered|CUDA error: misaligned address",
        _USER,
    ),
    _row(FailureClass.DEVICE_ERROR, r"CU(BLAS|DNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)", _USER),
    _row(FailureClass.DEVICE_ERROR, rf"\bXid{_BEFORE_NUMBER}(13|31)\b", _ANY, exact=True),
    # --- echoes: a collective that fails here fails for what happened there
    # the port of a round, taken by somebody else between its choice and its use
    _row(FailureClass.TRANSIENT_IO, r"[Aa]ddress already in use|\bEADDRINUSE\b"),
    _row(
        FailureClass.ECHO,
        r"Watchdog caught collective operation timeout|watchdog.{0,80}(got stuck|timed out)"
        r"|Heartbeat monitor timed out",
        _USER,
        alone=FailureClass.HANG,
    ),
    _row(
        FailureClass.ECHO,
        r"\[c10d\].{0,60}timed? ?out|NCCL.{0,60}\btimed? ?out\b.{0,40}(collective|operation|waiting)"
        r"|Timed out waiting \d+ms for (recv|send) operation|Application timeout caused pair closure"
        r"|Monitored ?Barrier.{0,80}(timeout|timed out)|Ranks? .{0,60}failed to pass monitoredBarrier",
        _USER,
        alone=FailureClass.HANG,
    ),
    _row(
        FailureClass.ECHO,
        r"NCCL.{0,200}unhandled cuda error|ncclUnhandledCudaError",
        _USER,
        alone=FailureClass.DEVICE_ERROR,
    ),
    _row(
        FailureClass.ECHO,
        r"NCCL.{0,200}(unhandled system error|internal error|remote process exited|communicator was aborted)"
        r"|ncclSystemError|ncclRemoteError|ncclInternalError|NCCL operations have failed or timed out",
        _USER,
        alone=FailureClass.NETWORK,
    ),
    _row(
        FailureClass.ECHO,
        r"NCCL WARN.{0,120}(Connection (closed|reset|refused)|failed : |Got completion from peer)",
        frozenset({LOG}),
        alone=FailureClass.NETWORK,
    ),
    _row(
        FailureClass.ECHO,
        r"gloo.{0,120}(closed by peer|reset by peer|Read error|Write error|timed out|Connect timeout|connect failure)"
        r"|Connection closed by peer \[",
        _USER,
        alone=FailureClass.NETWORK,
    ),
    _row(
        FailureClass.ECHO,
        r"(TCPStore|SocketImpl|DistStoreError|DistNetworkError|DistBackendError|c10d store).{0,400}"
        r"(closed|reset|broken pipe|timed? ?out|timeout|failed|refused|0 bytes|unreachable)"
        r"|wait timeout after \d+ms|client socket has (failed to connect|timed out)|Socket (is )?closed|Socket Timeout",
        _USER,
        alone=FailureClass.NETWORK,
    ),
    # --- data and files
    _row(
        FailureClass.DATA,
        r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed by signal|exited unexpectedly)"
        r"|DataLoader timed out after",
        _USER,
    ),
    _row(FailureClass.DISK, r"No space left on device|Disk quota exceeded|\[Errno (28|122)\]", _USER),
    _row(FailureClass.DISK, r"PytorchStreamWriter failed writing file|inline_container.* unexpected pos \d+ vs \d+"),
    _row(
        FailureClass.BAD_CHECKPOINT,
        r"PytorchStreamReader failed|(deserializing|invalid) header|incomplete metadata, file not fully covered"
        r"|invalid load key|pickle data was truncated|Ran out of input|unexpected EOF, expected \d+ more bytes",
    ),
    _row(FailureClass.TRANSIENT_IO, r"Stale (NFS )?file handle|\bESTALE\b|\[Errno (5|116)\]|Remote I/O error"),
    _row(
        FailureClass.TRANSIENT_IO,
        r"Connection (reset|refused|aborted|timed out|broken)|Broken pipe|Remote end closed connection"
        r"|Max retries exceeded|Temporary failure in name resolution|Name or service not known|Network is unreachable",
    ),
    _row(
        FailureClass.TRANSIENT_IO,
        r"\((SlowDown|ServiceUnavailable|InternalError|RequestTimeout|ThrottlingException|503|500)\) when calling"
        r"|reduce your request rate|HTTP Error 50[0234]\b|\b50[0234] Server Error|Too Many Requests"
        r"|Could not connect to the endpoint URL|Read timeout on endpoint URL|Could not obtain block"
        r"|SocketTimeoutException",
    ),
    _row(FailureClass.TRANSIENT_IO, r"\btimed out\b"),
    # --- numbers
    _row(
        FailureClass.NUMERIC,
        r"\b(loss|grad(ient)?s?|grad(ient)?[_ ]norm|total norm)\b.{0,60}\b(nan|inf|infinite|non-?finite|not finite)\b"
        r"|returned nan values in its|Minimum loss scale reached|\b(nan|inf) (loss|gradients?)\b"
        r"|(loss|gradient).{0,30}diverged",
    ),
    _row(FailureClass.NUMERIC, r"\bloss is (nan|inf)\b.{0,40}(stop|exit|abort|terminat)", frozenset({LOG})),
    # --- the command line of the script
    _row(
        FailureClass.CODE,
        r"error: (unrecognized arguments|the following arguments are required|argument \S+: (invalid|expected))",
        frozenset({LOG}),
    ),
)

# Whatever these say, the program is wrong, or it is one of our own errors, whose class says it all.
BY_TYPE_ALONE: tuple[tuple[frozenset[str], FailureClass], ...] = (
    (frozenset({"SnapshotCorrupt"}), FailureClass.BAD_SNAPSHOT),
    (
        frozenset(
            {"TypeError", "NameError", "SyntaxError", "AttributeError", "KeyError"}
            | {"StateError", "UsageError", "ConfigurationError"}
        ),
        FailureClass.CODE,
    ),
)

# By the class of the exception, or one of its bases, when no row above matches its message.
BY_TYPE: tuple[tuple[frozenset[str], FailureClass], ...] = (
    (frozenset({"StorageFull"}), FailureClass.DISK),
    (frozenset({"OutOfMemoryError"}), FailureClass.DEVICE_OOM),
    (frozenset({"MemoryError"}), FailureClass.HOST_OOM),
    (frozenset({"FloatingPointError"}), FailureClass.NUMERIC),
    (frozenset({"UnpicklingError", "SafetensorError"}), FailureClass.BAD_CHECKPOINT),
    (
        frozenset({"ImportError", "ModuleNotFoundError", "PermissionError", "FileNotFoundError"}),
        FailureClass.CODE,
    ),
    (
        frozenset({"DistStoreError", "DistNetworkError", "DistBackendError"}),
        FailureClass.ECHO,
    ),
    (
        frozenset(
            {"ConnectionError", "TimeoutError", "EndpointConnectionError", "ReadTimeoutError", "ConnectTimeoutError"}
        ),
        FailureClass.TRANSIENT_IO,
    ),
)


# A log is long and nearly all of it says nothing. What a row finds in one of its lines has one of these in it; to look
# for them first takes a tenth of the time.
HINTS = (
    *("xid", "ecc", "fallen off", "gpu is lost", "nvlink", "pcie bus error", "aer:", "hardware error", "mce:"),
    *("due to", "node_fail", "preempted"),
    *("killed process", "oom", "allocate", "memory: ", "bad_alloc", "alloc_failed", "out of memory"),
    *("assert", "illegal", "launch failure", "misaligned address", "execution_failed", "internal_error"),
    *("watchdog", "heartbeat", "c10d", "nccl", "timed out", "barrier", "pair closure", "gloo", "closed by peer"),
    *("tcpstore", "socket", "diststore", "distnetwork", "distbackend", "wait timeout"),
    *("dataloader", "space left", "quota exceeded", "[errno 28]", "[errno 122]", "loss is", "error: "),
)
_LONGEST = 2000  # characters of a line that are looked at


def find_row(text: str, where: str) -> Row | None:
    """The first row whose pattern is in ``text``, of those that may be looked for there."""
    if where != EXCEPTION:
        text = text[:_LONGEST]
        lowered = text.lower()
        if not any(hint in lowered for hint in HINTS):
            return None
    return next((row for row in ROWS if where in row.where and row.seen.search(text)), None)
