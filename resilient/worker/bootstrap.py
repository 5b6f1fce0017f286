"""The first moments of a worker: from a fork of the warm process to the user's script as ``__main__``.

What the script sees is what ``python script.py`` or ``python -m module`` shows it; where this cannot be,
``docs/start/unchanged.md`` says so.
"""

from __future__ import annotations

import atexit
import builtins
import importlib
import io
import os
import random
import runpy
import signal
import sys
import types
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from resilient.protocol import job_signals
from resilient.protocol.drill import DRILLED
from resilient.protocol.environment import DETERMINISTIC
from resilient.protocol.launch import LaunchSpec, WorkerError
from resilient.protocol.parent import die_with_parent
from resilient.worker.log_file import open_log
from resilient.worker.progress import progress
from resilient.worker.signals import kill_data_loading, sigterm, tie_children_to_this_process

_BEFORE_ANY_SCRIPT = ("os", "io", "abc", "site", "stat", "codecs", "encodings", "posixpath", "genericpath", "zipimport")
_FIXED_SEED = 67280421310721  # what older releases of torch begin with, always


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
    atexit.register(kill_data_loading)  # runs before the handler of multiprocessing, which was registered earlier
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if spec.board is None:
        sigterm.install()
        _seed_as_in_every_round(os.environ["TORCHELASTIC_RUN_ID"], spec.rank)
    else:  # the script knows nothing of us, so these signals mean to it what they always do
        job_signals.as_usual()
        sigterm.watch()
        progress.begin(spec.board)
        _reseed_numpy()
        _reseed_torch()
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    tie_children_to_this_process()


def run_script(spec: LaunchSpec) -> int:
    """Run the script or module to its end and return the exit code; an exception is written to the error file."""
    try:
        if DETERMINISTIC in os.environ:
            importlib.import_module("resilient.worker.determinism").arm()
        if DRILLED in os.environ:
            importlib.import_module("resilient.worker.drill").arm()
        _execute(spec)
    except SystemExit as leaving:
        return _exit_code(leaving)
    except BaseException as error:  # noqa: BLE001  whatever ends the script is evidence
        trace = _without_ours(error)
        with suppress(OSError):  # a full disk: the log and the exit code have to do
            WorkerError.of(error.with_traceback(trace)).write(Path(spec.error_file))
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace  # for handlers at exit
        # The default hook looks only at the error's own traceback.
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 1
    finally:
        progress.end(asked=sigterm.came())
    return 0


def _execute(spec: LaunchSpec) -> None:
    # Not runpy.run_path: it takes `__main__` away again at the end, while atexit handlers and threads may still need
    # it.
    main = types.ModuleType("__main__")
    code = _prepare_script(spec, main) if spec.module is None else _prepare_module(spec, main)
    main.__dict__["__builtins__"] = builtins
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.modules["__main__"] = main
    exec(code, main.__dict__)  # noqa: S102  running the user's script is the purpose


def _prepare_script(spec: LaunchSpec, main: types.ModuleType) -> types.CodeType:
    """As ``python script.py`` does: the name as it was given in ``sys.argv``, its absolute path in ``__file__``."""
    given = str(spec.script)
    script = os.path.abspath(given)  # noqa: PTH100  as Python does it, links are not followed
    sys.argv = [given, *spec.arguments]
    _set_first_path(os.path.dirname(os.path.realpath(script)))  # noqa: PTH120  here they are
    main.__file__ = script
    main.__loader__ = SourceFileLoader("__main__", script)
    main.__dict__.update(__cached__=None, __annotations__={})
    # Without dont_inherit the script would be compiled with this module's own `from __future__ import annotations`.
    return compile(Path(script).read_bytes(), script, "exec", dont_inherit=True)


def _prepare_module(spec: LaunchSpec, main: types.ModuleType) -> types.CodeType:
    """As ``python -m`` does it, with the same function of :mod:`runpy`."""
    _set_first_path(spec.directory)
    details: Any = runpy._get_module_details(spec.module, ImportError)  # type: ignore[attr-defined]  # noqa: SLF001
    _, found, code = details
    sys.argv = [found.origin, *spec.arguments]
    main.__file__ = found.origin
    main.__loader__, main.__package__, main.__spec__ = found.loader, found.parent, found
    main.__dict__.update(__cached__=found.cached, __annotations__={})
    return code  # type: ignore[no-any-return]  # runpy has no stubs for it


def _set_first_path(directory: str) -> None:
    """The forkserver has no entry for a directory of its own; nor has a script, where Python was told to be safe."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, directory)
        _forget_shadowed(Path(directory))


def _forget_shadowed(directory: Path) -> None:
    """Let the script import its own ``token.py``, although torch has been imported with Python's here.

    What Python itself has imported before any script, no script can shadow; nor is torch ever imported twice.
    """
    kept = {"__main__", "resilient", "torch", "numpy", *_BEFORE_ANY_SCRIPT, *sys.builtin_module_names}
    with suppress(OSError):
        for path in directory.iterdir():
            name = path.stem if path.suffix == ".py" else path.name
            module = sys.modules.get(name)
            if module is None or name in kept or not (path.suffix == ".py" or (path / "__init__.py").is_file()):
                continue
            origin = getattr(getattr(module, "__spec__", None), "origin", None)
            if origin != "frozen" and Path(origin or "").parent not in {directory, path}:
                for loaded in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
                    del sys.modules[loaded]


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
    raw = io.FileIO(0, closefd=False)
    raw.name = "<stdin>"
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(raw))  # type: ignore[misc]
    open_log(Path(spec.log), most=spec.log_max_bytes, keep=spec.log_keep)


def _seed_as_in_every_round(run_id: str, rank: int) -> None:
    """What a script draws before it attaches and without a seed of its own, such as data that is made up or how a data
    set is split, is no part of the state that is restored. So it is drawn alike in all rounds of a run.

    Torch's generators begin alike on all ranks, as they do where all are forks of one process.
    """
    own, common = random.Random(f"{run_id} {rank}"), random.Random(run_id)  # noqa: S311  dice, and no secret
    random.seed(own.getrandbits(64))
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        numpy.random.seed(own.getrandbits(32))
    if torch is not None:
        torch.manual_seed(common.getrandbits(63))


def _reseed_numpy() -> None:
    """A fresh process draws a fresh seed; a fork would otherwise repeat its parent's. Python's generator does this
    itself.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _reseed_torch() -> None:
    """Newer releases draw a seed when they are imported, and a script that sets none expects another one each time."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.default_generator.initial_seed() != _FIXED_SEED:
        torch.default_generator.seed()


def _without_ours(error: BaseException) -> types.TracebackType | None:
    """The traceback from the script on: our own frames above it tell the user nothing."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    # Python's own message of a script that cannot be compiled has no traceback at all.
    return trace if trace is not None or isinstance(error, SyntaxError) else error.__traceback__
