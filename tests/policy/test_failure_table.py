"""Every row of the failure catalogue, with messages as real libraries, drivers and kernels write them, and near misses.

The messages are shortened from public issue threads (pytorch, NCCL, gloo, TRL, LLaMA-Factory, the NVIDIA driver's
documentation, kernel logs).
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.failure_table import KERNEL, LOG, ROWS, find_row
from resilient.policy.failures import Evidence, Failure, FailureClass, classify, is_noise
from resilient.policy.roots import Loss, find_root
from resilient.policy.treatments import TREATMENTS


def raised(kind: str, message: str) -> Evidence:
    """A Python exception ended the script."""
    return Evidence(1, (kind, "Exception", "BaseException"), message)


def logged(*lines: str, code: int = -signal.SIGABRT) -> Evidence:
    """Native code ended the process, and its log ends so."""
    return Evidence(code, log=("step 41 loss 2.31", *lines))


def kernel(*lines: str, code: int = -signal.SIGKILL) -> Evidence:
    return Evidence(code, kernel=("usb 1-1: new high-speed USB device number 2", *lines))


HARDWARE = [
    kernel("mce: [Hardware Error]: Machine check events logged", code=-11),
    kernel("NVRM: Xid (PCI:0000:3b:00): 79, pid=12345, name=python, GPU has fallen off the bus.", code=-6),
    kernel(
        "NVRM: Xid (PCI:0000:86:00): 48, pid=831, An uncorrectable double bit error (DBE) has been detected", code=-6
    ),
    kernel("NVRM: GPU 0000:01:00.0: GPU has fallen off the bus."),
    kernel("NVRM: Xid (PCI:0000:0f:00): 119, pid=2203, Timeout waiting for RPC from GSP!", code=1 - 1 - 11),
    kernel("pcieport 0000:00:03.1: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer", code=-7),
    raised("RuntimeError", "CUDA error: uncorrectable ECC error encountered"),
    raised("AcceleratorError", "CUDA error: an uncorrectable NVLink error was detected during the execution"),
    logged("Unable to determine the device handle for GPU 0000:5E:00.0: GPU is lost.  Reboot the system", code=1),
]
PREEMPTION = [
    logged("The instance is being preempted; 30 s are left", code=1),
    Evidence(-signal.SIGTERM),
    Evidence(143),
    logged(
        "slurmstepd: error: *** STEP 8651.0 ON node12 CANCELLED AT 2024-05-03T10:11:12 DUE TO PREEMPTION ***", code=1
    ),
    logged("slurmstepd: error: *** JOB 512 ON gpu3 CANCELLED AT 2024-01-02T03:04:05 DUE TO TIME LIMIT ***", code=1),
    logged("srun: error: Node failure on gpu7: NODE_FAIL", code=1),
]
HOST_OOM = [
    logged(
        "slurmstepd: error: Detected 1 oom_kill event in StepId=77.0. Some of the step tasks have been OOM Killed.",
        code=1,
    ),
    Evidence(-signal.SIGKILL, oom_kills=1),
    Evidence(137, oom_kills=2),
    kernel("Memory cgroup out of memory: Killed process 4211 (python3) total-vm:41213560kB, anon-rss:33548292kB"),
    kernel("Out of memory: Killed process 99 (pt_main_thread) total-vm:9kB, anon-rss:8kB, file-rss:0kB"),
    raised("MemoryError", ""),
    raised(
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 34359738368 bytes. Error code 12 (Cannot allocate memory)",
    ),
    raised("OSError", "[Errno 12] Cannot allocate memory"),
    raised(
        "_ArrayMemoryError", "Unable to allocate 7.45 GiB for an array with shape (1000000, 1000) and data type float64"
    ),
    logged("terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"),
    Evidence(1, ("RuntimeError",), "DataLoader worker (pid 4242) is killed by signal: Killed. ", oom_kills=1),
]
KILLED = [Evidence(-signal.SIGKILL), Evidence(137), Evidence(-signal.SIGHUP)]
DEVICE_OOM = [
    raised(
        "OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of "
        "which 1.02 GiB is free. Process 80311 has 78.12 GiB memory in use.",
    ),
    raised("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    raised("RuntimeError", "HIP out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.98 GiB total capacity)"),
    logged("RuntimeError: CUDA error: out of memory", code=1),
    logged("node1:51:52 [0] include/alloc.h:48 NCCL WARN Cuda failure 2 'out of memory'", code=1),
]
ECHO_HANG = [
    logged(
        "[rank0]:[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) "
        "ran for 600060 milliseconds before timing out."
    ),
    raised(
        "RuntimeError",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
        "1800000ms for recv operation to complete",
    ),
    logged(
        "[rank3]:[F ProcessGroupNCCL.cpp:1413] [PG 0 Rank 3] Heartbeat monitor timed out! Process will be terminated"
    ),
    raised(
        "RuntimeError",
        "Rank 0 successfully reached monitoredBarrier, but received errors while waiting for "
        "send/recv from rank 3: ranks 3 failed to pass monitoredBarrier in 30000 ms",
    ),
]
ECHO_NETWORK = [
    raised(
        "DistBackendError",
        "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1347, remote process "
        "exited or there was a network error, NCCL version 2.18.5\nncclRemoteError: A call failed possibly due to a "
        "network error or a remote process exiting prematurely.",
    ),
    raised(
        "RuntimeError",
        "NCCL error in: ../torch/lib/c10d/ProcessGroupNCCL.cpp:825, unhandled system error, "
        "NCCL version 2.7.8\nncclSystemError: System call (socket, malloc, munmap, etc) failed.",
    ),
    raised("RuntimeError", "NCCL communicator was aborted on rank 1.  Original reason for failure was: x"),
    raised(
        "RuntimeError",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:10895",
    ),
    raised(
        "RuntimeError",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:589] Read error [192.168.70.92]:25266: "
        "Connection reset by peer",
    ),
    raised(
        "DistNetworkError",
        "The client socket has timed out after 600000ms while trying to connect to (10.0.0.1, 29500).",
    ),
    raised("DistStoreError", "Timed out after 301 seconds waiting for clients. 1/2 clients joined."),
    raised(
        "DistBackendError",
        "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d "
        "key-value store by store->get('0'), but store->get('0') got error: Connection reset by peer",
    ),
    logged(
        "a100-22:183006:183220 [1] misc/socket.cc:538 NCCL WARN Net : Connection closed by remote peer a100-21<47861>"
    ),
    logged(
        "terminate called after throwing an instance of 'std::runtime_error'",
        "  what():  NCCL error: remote process exited or there was a network error, NCCL version 2.14.3",
    ),
    raised("RuntimeError", "Socket Timeout"),
]
ECHO_DEVICE = [
    raised(
        "DistBackendError",
        "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1331, unhandled cuda "
        "error (run with NCCL_DEBUG=INFO for details)",
    ),
]
DEVICE_ERROR = [
    kernel("NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=python, Ch 00000008, MMU Fault: ENGINE GRAPHICS", code=-6),
    raised(
        "RuntimeError",
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously "
        "reported at some other API call, so the stacktrace below might be incorrect.",
    ),
    raised("RuntimeError", "CUDA error: unspecified launch failure"),
    raised("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa)`"),
    logged(
        "terminate called after throwing an instance of 'c10::Error'",
        "  what():  CUDA error: an illegal memory access was encountered",
    ),
]
DEVICE_ASSERT = [
    raised("AcceleratorError", "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
    logged(
        "../aten/src/ATen/native/cuda/Indexing.cu:1146: indexSelectLargeIndex: block: [31,0,0], thread: [96,0,0] "
        "Assertion `srcIndex < srcSelectDimSize` failed.",
        code=1,
    ),
]
CRASH = [
    Evidence(-signal.SIGSEGV),
    Evidence(139),
    Evidence(-signal.SIGBUS),
    logged("Fatal Python error: Aborted", "terminate called without an active exception"),
]
DATA = [
    raised("RuntimeError", "DataLoader worker (pid 7731) is killed by signal: Segmentation fault. "),
    raised("RuntimeError", "DataLoader worker (pid(s) 15488, 15489) exited unexpectedly"),
    raised(
        "RuntimeError",
        "DataLoader worker (pid 22) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
    ),
]
TRANSIENT_IO = [
    raised(
        "DistNetworkError",
        "The server socket has failed to listen on any local network address. port: 29500, useIpv6: false, code: -98, "
        "name: EADDRINUSE, message: address already in use",
    ),
    raised("ConnectionResetError", "[Errno 104] Connection reset by peer"),
    raised("OSError", "[Errno 116] Stale file handle: '/nfs/data/shard-00012.tar'"),
    raised(
        "ClientError",
        "An error occurred (SlowDown) when calling the PutObject operation (reached max retries: 4): "
        "Please reduce your request rate.",
    ),
    raised("EndpointConnectionError", 'Could not connect to the endpoint URL: "https://bucket.s3.amazonaws.com/x"'),
    raised(
        "ReadTimeoutError", "HTTPSConnectionPool(host='huggingface.co', port=443): Read timed out. (read timeout=10)"
    ),
    raised("OSError", "[Errno 5] Input/output error"),
    raised("IOError", "java.net.SocketTimeoutException: 60000 millis timeout while waiting for channel to be ready"),
    Evidence(
        1,
        log=(
            "Traceback (most recent call last):",
            '  File "train.py", line 3, in <module>',
            "    get()",
            "ConnectionRefusedError: [Errno 111] Connection refused",
        ),
    ),
]
DISK = [
    raised("OSError", "[Errno 28] No space left on device: '/scratch/x.pt'"),
    raised("OSError", "[Errno 122] Disk quota exceeded"),
    raised("RuntimeError", "[enforce fail at inline_container.cc:603] . unexpected pos 5312 vs 5206"),
    raised("RuntimeError", "PytorchStreamWriter failed writing file data/12: file write failed"),
]
BAD_SNAPSHOT = [
    raised("SnapshotCorrupt", "rank-00000.safetensors is truncated"),
    raised("SnapshotCorrupt", "invalid header in rank-00000.safetensors"),
]
BAD_CHECKPOINT = [
    raised("RuntimeError", "PytorchStreamReader failed reading zip archive: failed finding central directory"),
    raised("UnpicklingError", "invalid load key, '\\x00'."),
    raised("SafetensorError", "Error while deserializing header: HeaderTooLarge"),
    raised("EOFError", "Ran out of input"),
]
CODE = [
    raised("KeyError", "'learning_rate'"),
    raised("ModuleNotFoundError", "No module named 'flash_attn'"),
    raised("FileNotFoundError", "[Errno 2] No such file or directory: 'data/train.bin'"),
    raised(
        "KeyError",
        "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "  File \"worker.py\", line 309, in _worker_loop\n    data = fetcher.fetch(index)\nKeyError: 'image'",
    ),
    logged("train.py: error: unrecognized arguments: --lrr=1", code=2),
    Evidence(
        1,
        log=(
            "Traceback (most recent call last):",
            '  File "t.py", line 1, in <module>',
            "    x.y",
            "AttributeError: 'NoneType' object has no attribute 'y'",
        ),
    ),
    raised("UnboundLocalError", "cannot access local variable 'loss' where it is not associated with a value"),
]
NUMERIC = [
    raised("ValueError", "Loss is nan, stopping training"),
    raised(
        "RuntimeError",
        "The total norm of order 2.0 for gradients from `parameters` is non-finite, so it cannot be clipped.",
    ),
    raised("RuntimeError", "Function 'MulBackward0' returned nan values in its 0th output."),
    raised("FloatingPointError", "Minimum loss scale reached (0.0001). Your loss is probably exploding."),
    logged("Loss is nan, stopping training", code=1),
]
APPLICATION = [
    raised("ValueError", "batch size must be positive"),
    raised("RuntimeError", "a bug in step 23"),
    Evidence(3),
    Evidence(1, log=("Traceback (most recent call last):", '  File "t.py", line 1, in <module>', "MyOwn: no")),
]
# What looks like a row and is none.
NEAR_MISSES = [
    (FailureClass.HARDWARE, kernel("NVRM: Xid (PCI:0000:3b:00): 13, pid=7, Graphics SM Warp Exception", code=-6)),
    (FailureClass.HARDWARE, kernel("NVRM: Xid (PCI:0000:3b:00): 45, pid=7, Ch 00000008, Preemptive Channel Removal")),
    (FailureClass.HARDWARE, kernel("NVRM: Xid (PCI:0000:3b:00): 31, pid=7, MMU Fault: ENGINE GRAPHICS", code=-6)),
    (FailureClass.HARDWARE, raised("RuntimeError", "no row with xid=79 in the table")),
    (FailureClass.HARDWARE, Evidence(1, ("KeyError",), "'x'", kernel=("NVRM: GPU has fallen off the bus.",))),
    (FailureClass.HARDWARE, kernel("EDAC MC0: 1 CE memory read error: correctable ECC")),
    (FailureClass.PREEMPTION, raised("RuntimeError", "do not call this when preempted")),
    (FailureClass.PREEMPTION, logged("checkpoint is saved DUE TO user request", code=1)),
    (FailureClass.HOST_OOM, kernel("Out of memory: Killed process 77 (chrome) total-vm:1kB", code=-11)),
    (
        FailureClass.HOST_OOM,
        Evidence(-9, kernel=("Out of memory: Killed process 77 (chrome)",), processes=frozenset({5})),
    ),
    (FailureClass.HOST_OOM, Evidence(1, ("KeyError",), "'x'", oom_kills=1)),
    (FailureClass.DEVICE_OOM, Evidence(-9, log=("CUDA out of memory, retrying with half the batch",))),
    (FailureClass.DEVICE_OOM, raised("ValueError", "out_of_memory_policy is unknown")),
    (FailureClass.ECHO, logged("node:1:2 [0] NCCL INFO NCCL_TIMEOUT set by environment to 600", code=-11)),
    (FailureClass.ECHO, raised("ValueError", "timeout must be a timedelta")),
    (FailureClass.ECHO, raised("ConnectionResetError", "[Errno 104] Connection reset by peer")),
    (FailureClass.DEVICE_ERROR, raised("RuntimeError", "CUDA error: invalid device ordinal")),
    (FailureClass.DEVICE_ASSERT, raised("AssertionError", "assert triggered by the user's own check")),
    (FailureClass.CRASH, Evidence(134 + 60)),
    (FailureClass.DATA, raised("KeyError", "Caught KeyError in DataLoader worker process 0.")),
    (FailureClass.DATA, raised("RuntimeError", "num_workers: DataLoader worker count must be even")),
    (FailureClass.TRANSIENT_IO, logged("WARNING Connection reset by peer, retrying", code=3)),
    (FailureClass.TRANSIENT_IO, raised("KeyError", "'timed out'")),
    (FailureClass.DISK, raised("ValueError", "no space left in the vocabulary")),
    (FailureClass.BAD_SNAPSHOT, raised("RuntimeError", "SnapshotCorrupt was expected")),
    (
        FailureClass.BAD_CHECKPOINT,
        raised("RuntimeError", "Error(s) in loading state_dict: size mismatch for fc.weight"),
    ),
    (FailureClass.CODE, raised("ValueError", "a TypeError would have been clearer")),
    (FailureClass.NUMERIC, raised("ValueError", "the loss information is incomplete")),
    (FailureClass.NUMERIC, logged("step 7 loss: nan", code=3)),
    (FailureClass.KILLED, Evidence(1, ("RuntimeError",), "worker was Killed")),
]
EXPECTED = [
    (FailureClass.HARDWARE, HARDWARE),
    (FailureClass.PREEMPTION, PREEMPTION),
    (FailureClass.HOST_OOM, HOST_OOM),
    (FailureClass.KILLED, KILLED),
    (FailureClass.DEVICE_OOM, DEVICE_OOM),
    (FailureClass.ECHO, ECHO_HANG + ECHO_NETWORK + ECHO_DEVICE),
    (FailureClass.DEVICE_ERROR, DEVICE_ERROR),
    (FailureClass.DEVICE_ASSERT, DEVICE_ASSERT),
    (FailureClass.CRASH, CRASH),
    (FailureClass.DATA, DATA),
    (FailureClass.TRANSIENT_IO, TRANSIENT_IO),
    (FailureClass.DISK, DISK),
    (FailureClass.BAD_SNAPSHOT, BAD_SNAPSHOT),
    (FailureClass.BAD_CHECKPOINT, BAD_CHECKPOINT),
    (FailureClass.CODE, CODE),
    (FailureClass.NUMERIC, NUMERIC),
    (FailureClass.APPLICATION, APPLICATION),
]
CASES = [
    pytest.param(expected, evidence, id=f"{expected.name}-{number}")
    for expected, all_of_it in EXPECTED
    for number, evidence in enumerate(all_of_it)
]


@pytest.mark.parametrize(("expected", "evidence"), CASES)
def test_the_catalogue_names_what_is_seen(expected: FailureClass, evidence: Evidence) -> None:
    assert classify(evidence).failure_class is expected


@pytest.mark.parametrize(
    ("wrong", "evidence"),
    [pytest.param(wrong, evidence, id=f"{wrong.name}-{n}") for n, (wrong, evidence) in enumerate(NEAR_MISSES)],
)
def test_what_only_looks_like_it_is_something_else(wrong: FailureClass, evidence: Evidence) -> None:
    assert classify(evidence).failure_class is not wrong


def test_every_class_that_evidence_can_show_has_two_cases_and_a_near_miss() -> None:
    seen = {row.failure_class for row in ROWS} | {failure_class for failure_class, _ in EXPECTED}
    assert {expected for expected, cases in EXPECTED if len(cases) >= 2} >= seen
    assert {wrong for wrong, _ in NEAR_MISSES} >= seen - {FailureClass.APPLICATION}


def test_every_row_of_the_catalogue_is_needed_by_a_case() -> None:
    used = set()
    for _, cases in EXPECTED:
        for evidence in cases:
            first = f"{''.join(evidence.error_type[:1])}: {evidence.error_message}"
            for text in (first, *evidence.log, *evidence.kernel):
                used |= {number for number, row in enumerate(ROWS) if row.seen.search(text)}
    assert used == set(range(len(ROWS)))


def test_what_a_row_finds_in_a_log_has_one_of_the_hints_in_it() -> None:
    """Each case's message as a line of a log: with and without the hints, the same row is found."""
    for _, cases in EXPECTED:
        for evidence in cases:
            for text in (*evidence.error_message.splitlines(), *evidence.log, *evidence.kernel):
                for where in (LOG, KERNEL):
                    plain = next((row for row in ROWS if where in row.where and row.seen.search(text)), None)
                    assert find_row(text, where) is plain, text


@pytest.mark.parametrize(
    ("evidence", "alone"),
    [
        *((evidence, FailureClass.HANG) for evidence in ECHO_HANG),
        *((evidence, FailureClass.NETWORK) for evidence in ECHO_NETWORK),
        *((evidence, FailureClass.DEVICE_ERROR) for evidence in ECHO_DEVICE),
    ],
)
def test_an_echo_that_stands_alone_has_a_class_of_its_own(evidence: Evidence, alone: FailureClass) -> None:
    assert find_root([Loss(0, 10, classify(evidence), 1.0)]).failure.failure_class is alone


# --- which evidence outranks which


def test_an_echo_whose_own_log_shows_the_root_is_named_after_it() -> None:
    evidence = Evidence(
        1,
        ("DistBackendError", "DistError", "RuntimeError"),
        "NCCL communicator was aborted on rank 0.",
        log=("CUDA error: an illegal memory access was encountered", "NCCL communicator was aborted on rank 0."),
    )
    assert classify(evidence).failure_class is FailureClass.DEVICE_ERROR


def test_the_kernels_word_names_the_cause_and_keeps_the_consequence() -> None:
    failure = classify(HARDWARE[1])
    assert "fallen off the bus" in failure.message
    assert "SIGABRT" in failure.message
    assert any("Xid" in line for line in failure.evidence)


def test_the_evidence_for_lack_of_memory_is_told() -> None:
    failure = classify(Evidence(-9, oom_kills=2))
    assert failure.signature == "SIGKILL: killed for lack of memory"
    assert any("rose by 2" in line for line in failure.evidence)


def test_a_wrapper_is_named_after_what_it_wraps() -> None:
    evidence = Evidence(
        1, ("TrainingFailed", "RuntimeError"), "epoch 3 failed", causes=("OutOfMemoryError: CUDA out of memory.",)
    )
    failure = classify(evidence)
    assert failure.failure_class is FailureClass.DEVICE_OOM
    assert "epoch 3 failed" in failure.message
    assert "CUDA out of memory" in failure.message


def test_the_allocation_that_failed_is_in_the_message() -> None:
    assert "Tried to allocate 2.00 GiB" in classify(DEVICE_OOM[0]).message


def test_a_dataloader_killed_after_the_run_is_finished_is_noise() -> None:
    message = "DataLoader worker (pid 7) is killed by signal: Terminated. "
    assert is_noise(Evidence(1, ("RuntimeError",), message, announced_finish=True))
    assert not is_noise(Evidence(1, ("RuntimeError",), message))
    assert not is_noise(Evidence(1, ("KeyError",), "'x'", announced_finish=True))


def test_the_last_traceback_of_the_log_counts_and_not_one_that_was_handled() -> None:
    handled = (
        "Traceback (most recent call last):",
        '  File "a.py", line 1',
        "ConnectionResetError: [Errno 104] x",
        "retry",
    )
    last = ("[rank1]: Traceback (most recent call last):", '[rank1]:   File "a.py", line 9', "[rank1]: KeyError: 'lr'")
    assert classify(Evidence(1, log=(*handled, *last))) == Failure(FailureClass.CODE, "KeyError: 'lr'")


TEXT = st.text(max_size=200)
EVIDENCE = st.builds(
    Evidence,
    st.integers(-200, 400),
    st.lists(TEXT, max_size=3).map(tuple),
    TEXT | st.sampled_from([case.error_message for _, cases in EXPECTED for case in cases]),
    hung=st.booleans(),
    announced_finish=st.booleans(),
    causes=st.lists(TEXT, max_size=2).map(tuple),
    log=st.lists(TEXT | st.just("Traceback (most recent call last):"), max_size=5).map(tuple),
    kernel=st.lists(TEXT, max_size=3).map(tuple),
    oom_kills=st.integers(0, 3),
    processes=st.frozensets(st.integers(1, 100), max_size=3),
)


@given(EVIDENCE)
def test_every_evidence_has_a_name_a_treatment_and_is_named_the_same_twice(evidence: Evidence) -> None:
    failure = classify(evidence)
    assert failure.failure_class in TREATMENTS
    assert failure.signature or evidence.error_type[:1] == ("",)
    assert classify(evidence) == failure
    assert len(failure.message) <= 1000
    is_noise(evidence)


def test_every_class_has_a_treatment_with_advice() -> None:
    assert set(TREATMENTS) == set(FailureClass)
    assert all(cure.advice and cure.remedy for cure in TREATMENTS.values())
