"""Shows what a script sees of the process it runs in."""

import argparse
import atexit
import dataclasses
import grp
import inspect
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time


@dataclasses.dataclass
class Settings:
    lr: float = 0.1


def child(queue):
    queue.put((__name__, sys.argv, Settings().lr))


def late():
    time.sleep(0.1)
    print("a thread ends", pickle.loads(pickle.dumps(Settings(5))))  # noqa: S301


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    parser.add_argument("rest", nargs="*")
    print(parser.prog, parser.parse_args(), sys.argv, sys.orig_argv[1:])
    print(__file__, __spec__, __package__, __name__, type(__loader__).__name__, type(__builtins__))
    print(sorted(name for name in globals() if name.startswith("__")))
    print(sys.path[0], os.getcwd(), dataclasses.fields(Settings)[0].type)
    print(inspect.getsource(Settings), inspect.getsourcefile(child), inspect.getmodule(Settings))
    print([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE)])
    ours = {"RESILIENT_PLAN", "RESILIENT_MARK", "TORCHELASTIC_ERROR_FILE", "PYTHONHASHSEED", "TORCHINDUCTOR_CACHE_DIR"}
    print(sorted(set(os.environ) - ours))
    print(sys.stdout.name, sys.stdout.encoding, sys.stdout is sys.__stdout__, sys.stdin.name, sys.stdin.fileno())
    print(grp.__file__)
    print(threading.active_count(), multiprocessing.current_process().name, multiprocessing.parent_process())
    try:
        input()
    except EOFError as error:
        print(repr(error))
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(method, queue.get())
        process.join()
    atexit.register(lambda: print("bye", sys.modules["__main__"].__name__, Settings))
    threading.Thread(target=late).start()


if __name__ == "__main__":
    main()
    sys.exit("that was all")
