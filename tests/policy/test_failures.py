"""What a failure is called: one row of evidence each, as the failure catalogue lists them."""

from __future__ import annotations

import signal

import pytest

from resilient.policy.failures import Evidence, Failure, FailureClass, classify


def _raised(*types: str, message: str = "") -> Evidence:
    return Evidence(1, (*types, "Exception", "BaseException"), message)


def _of(error: BaseException) -> Evidence:
    """The evidence a worker leaves when ``error`` ends its script."""
    return Evidence(1, tuple(kind.__name__ for kind in type(error).__mro__[:-1]), str(error))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TypeError("f() takes 1 argument"), FailureClass.CODE),
        (NameError("name 'x' is not defined"), FailureClass.CODE),
        (SyntaxError("invalid syntax"), FailureClass.CODE),
        (IndentationError("unexpected indent"), FailureClass.CODE),
        (ModuleNotFoundError("No module named 'x'"), FailureClass.CODE),
        (AttributeError("'NoneType' object has no attribute 'x'"), FailureClass.CODE),
        (KeyError("lr"), FailureClass.CODE),
        (PermissionError(13, "Permission denied"), FailureClass.CODE),
        (FileNotFoundError(2, "No such file or directory"), FailureClass.CODE),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), FailureClass.DEVICE_OOM),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), FailureClass.DEVICE_OOM),
        (MemoryError(), FailureClass.HOST_OOM),
        (OSError(28, "No space left on device"), FailureClass.DISK),
        (OSError(122, "Disk quota exceeded"), FailureClass.DISK),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), FailureClass.DATA),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), FailureClass.DATA),
        (OSError(116, "Stale file handle"), FailureClass.TRANSIENT_IO),
        (ConnectionResetError(104, "Connection reset by peer"), FailureClass.TRANSIENT_IO),
        (BrokenPipeError(32, "Broken pipe"), FailureClass.TRANSIENT_IO),
        (TimeoutError("the read took too long"), FailureClass.TRANSIENT_IO),
        (RuntimeError("the request timed out"), FailureClass.TRANSIENT_IO),
        (ValueError("loss must be positive"), FailureClass.APPLICATION),
        (ZeroDivisionError("division by zero"), FailureClass.APPLICATION),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.name,
)
def test_an_exception_is_classed_by_message_and_type(error: BaseException, expected: FailureClass) -> None:
    assert classify(_of(error)).failure_class is expected


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("SnapshotCorrupt", "SnapshotError", "ResilientError"), FailureClass.BAD_SNAPSHOT),
        (("StorageFull", "ResilientError"), FailureClass.DISK),
        (("StateError", "ResilientError"), FailureClass.CODE),
        (("UsageError", "ResilientError"), FailureClass.CODE),
        (("ConfigurationError", "ResilientError"), FailureClass.CODE),
        (("OutOfMemoryError", "RuntimeError"), FailureClass.DEVICE_OOM),
    ],
)
def test_our_own_errors_and_torchs_have_their_classes(types: tuple[str, ...], expected: FailureClass) -> None:
    assert classify(_raised(*types)).failure_class is expected


def test_a_user_class_derived_from_a_known_one_is_classed_like_it() -> None:
    assert classify(_raised("MissingColumn", "KeyError", "LookupError")).failure_class is FailureClass.CODE


def test_what_a_spawned_process_raised_is_named_and_not_that_it_did() -> None:
    raised = "-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n"
    raised += "  File \"train.py\", line 9, in main_worker\n    fn(i)\nKeyError: 'state_dict'\n"
    failure = classify(_raised("ProcessRaisedException", "ProcessException", "Exception", message=raised))
    assert failure == Failure(FailureClass.CODE, "KeyError: 'state_dict'")
    nothing = classify(_raised("ProcessRaisedException", "ProcessException", "Exception", message="…"))
    assert nothing.failure_class is FailureClass.APPLICATION


def test_a_port_that_somebody_else_has_is_passing() -> None:
    message = "The server socket has failed to listen … code: -98, name: EADDRINUSE, message: address already in use"
    taken = _raised("DistNetworkError", "DistError", "RuntimeError", message=message)
    assert classify(taken).failure_class is FailureClass.TRANSIENT_IO


def test_the_message_outranks_the_type() -> None:
    full = _raised("FileNotFoundError", "OSError", message="No space left on device: 'x'")
    assert classify(full).failure_class is FailureClass.DISK


def test_the_signature_is_type_and_message() -> None:
    assert classify(_raised("ValueError", message="bad loss")) == Failure(
        FailureClass.APPLICATION, "ValueError: bad loss"
    )
    assert classify(_raised("KeyboardInterrupt")).signature == "KeyboardInterrupt"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE])
def test_a_fault_of_the_process_itself_is_a_crash(number: signal.Signals) -> None:
    assert classify(Evidence(-number)) == Failure(FailureClass.CRASH, number.name)
    assert classify(Evidence(128 + number)) == Failure(FailureClass.CRASH, number.name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_a_signal_from_outside_is_a_kill(number: signal.Signals) -> None:
    assert classify(Evidence(-number)) == Failure(FailureClass.KILLED, number.name)
    assert classify(Evidence(128 + number)) == Failure(FailureClass.KILLED, number.name)


def test_exit_zero_alone_is_not_finished() -> None:
    assert classify(Evidence(0)) == Failure(FailureClass.UNFINISHED, "exit 0 without finishing")


@pytest.mark.parametrize("code", [193, 200, 255])
def test_an_exit_code_beyond_the_last_signal_is_the_scripts_own(code: int) -> None:
    """``sys.exit(-1)`` is 255, and no shell's word for a signal."""
    assert classify(Evidence(code)) == Failure(FailureClass.APPLICATION, f"exit {code}")


def test_another_exit_code_without_exception_is_the_scripts_own() -> None:
    assert classify(Evidence(3)) == Failure(FailureClass.APPLICATION, "exit 3")


def test_whatever_the_exit_status_a_worker_killed_for_hanging_hung() -> None:
    for evidence in (Evidence(-9, hung=True), Evidence(1, ("ValueError",), "x", hung=True), Evidence(0, hung=True)):
        assert classify(evidence).failure_class is FailureClass.HANG


def test_the_exception_outranks_the_signal() -> None:
    """A script that raises and is then killed during its teardown has failed by what it raised."""
    assert classify(Evidence(-9, ("TypeError", "Exception"), "bad")).failure_class is FailureClass.CODE
