"""The first moments of a worker: from a fork of the warm process to the user's script as ``__main__``."""

from __future__ import annotations

import importlib
import io
import os
import runpy
import signal
import sys
import types
from contextlib import suppress
from pathlib import Path

from resilient.protocol.drill import DRILLED
from resilient.protocol.launch import LaunchSpec, WorkerError
from resilient.protocol.parent import die_with_parent
from resilient.worker.log_file import open_log
from resilient.worker.signals import kill_data_loading, sigterm, tie_children_to_this_process


def become_worker(spec: LaunchSpec, parent: int) -> None:
    """Turn this freshly forked process into the worker that ``spec`` describes, short of running its script."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    die_with_parent(parent)
    os.setsid()  # a group of its own: the terminal's Ctrl-C passes it by, and the whole group can be killed at once
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _redirect_output(spec)
    os.environ.update(spec.environment)
    os.chdir(spec.directory)
    _reseed_numpy()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sigterm.install()
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    tie_children_to_this_process()


def run_script(spec: LaunchSpec) -> int:
    """Run the script or module to its end and return the exit code; an exception is written to the error file."""
    try:
        if DRILLED in os.environ:
            importlib.import_module("resilient.worker.drill").arm()
        _execute(spec)
    except SystemExit as leaving:
        return _exit_code(leaving)
    except BaseException as error:  # noqa: BLE001  whatever ends the script is evidence
        with suppress(OSError):  # a full disk: the log and the exit code have to do
            WorkerError.of(error).write(Path(spec.error_file))
        shown = _without_ours(error)
        # The default hook looks only at the error's own traceback.
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        return 1
    finally:
        kill_data_loading()
    return 0


def _execute(spec: LaunchSpec) -> None:
    if spec.module is not None:
        sys.argv = [spec.module, *spec.arguments]
        sys.path[0] = spec.directory
        runpy.run_module(spec.module, run_name="__main__", alter_sys=True)
        return
    script = str(spec.script)
    sys.argv = [script, *spec.arguments]
    sys.path[0] = str(Path(script).parent)  # in place of the forkserver's, as `python script.py` has it
    # Not runpy.run_path: it takes `__main__` away again at the end, while atexit handlers and threads may still need
    # it.
    main = types.ModuleType("__main__")
    main.__file__ = script
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    code = compile(Path(script).read_bytes(), script, "exec")
    exec(code, main.__dict__)  # noqa: S102  running the user's script is the purpose


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    print(leaving.code, file=sys.stderr)
    return 1


def _redirect_output(spec: LaunchSpec) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    open_log(Path(spec.log), most=spec.log_max_bytes, keep=spec.log_keep)


def _reseed_numpy() -> None:
    """A fresh process draws a fresh seed; a fork would otherwise repeat its parent's. Python's generator does this
    itself.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _without_ours(error: BaseException) -> types.TracebackType | None:
    """The traceback from the script on: our own frames above it tell the user nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace if trace is not None else error.__traceback__
