"""A script that starts every kind of process that has ever outlived a training, and trains on a little."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
HOLDER = f"""
import fcntl, socket, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
port = socket.socket()
port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
port.bind(("127.0.0.1", int(sys.argv[2])))
port.listen()
print("held", flush=True)
{SLEEP}
"""
STORM = """
import os, time
for number in range(100):
    if os.fork() == 0:
        if number % 3 == 0:
            os.setsid()
        time.sleep(0.01)
        if number % 10:
            os._exit(0)
        os.fork()
        time.sleep(600)
    time.sleep(0.01)
time.sleep(600)
"""


def start(*arguments: str, code: str = SLEEP, **options: bool) -> None:
    subprocess.Popen([sys.executable, "-c", code, *arguments], **options)  # type: ignore[call-overload]


def fork_a_sleeper() -> None:
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)


def fork_a_daemon() -> None:
    """Forked twice, as a daemon is; the script waits for what it says once the process between them has exited."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                time.sleep(0.001)
            os.write(writing, b"up")
            os.close(writing)
            time.sleep(600)
        os._exit(0)
    os.close(writing)
    os.waitpid(between, 0)
    if os.read(reading, 2) != b"up":
        raise RuntimeError("the daemon died with the process between")


def open_the_zoo(lock: str, port: str) -> None:
    start("child")
    start("stubborn", code=STUBBORN)
    start("daemon", start_new_session=True)
    start("storm", code=STORM)
    fork_a_daemon()
    subprocess.Popen(["sh", "-c", "(setsid sleep 600 &) ; (sleep 600 &)"]).wait()
    subprocess.Popen(["sh", "-c", "sleep 600 | cat"])
    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True).start()
    for thread in (threading.Thread(target=fork_a_sleeper), threading.Thread(target=start, args=("of a thread",))):
        thread.start()
        thread.join()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, lock, port], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    if holder.stdout.readline() != b"held\n":
        raise RuntimeError("the port or the lock is still held by a process of an earlier round")


def main() -> None:
    import torch
    from torch.utils.data import DataLoader

    import resilient

    open_the_zoo(*sys.argv[1:3])
    data = torch.arange(50, dtype=torch.float32).reshape(50, 1)
    loader: DataLoader[torch.Tensor] = DataLoader(list(data), batch_size=4, num_workers=1)  # type: ignore[arg-type]
    model = torch.nn.Linear(1, 1)
    run = resilient.attach(model=model, data=loader)
    for _, batch in run.steps(total=40):
        run.report(loss=model(batch).sum())
        time.sleep(0.03)


if __name__ == "__main__":
    main()
