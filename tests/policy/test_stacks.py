"""Stacks as faulthandler and py-spy write them, and what is said of them in one line."""

from __future__ import annotations

import pytest

from resilient.policy import stacks
from resilient.policy.stacks import describe, is_idle_loader, main_stack, parse_stacks, waits_for_data, waits_for_ranks

TORCH = "/venv/lib/python3.11/site-packages/torch"
OURS = stacks._OURS

LOADING = f"""Thread 0x00007f9703fff6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f972ae6fb80 (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 415 in select
  File "{TORCH}/utils/data/dataloader.py", line 1291 in _try_get_data
  File "{TORCH}/utils/data/dataloader.py", line 725 in __next__
  File "{OURS}worker/data.py", line 210 in batches
  File "{OURS}worker/run.py", line 90 in steps
  File "/home/me/my project/train.py", line 41 in main
  File "/home/me/my project/train.py", line 50 in <module>
  File "{OURS}worker/bootstrap.py", line 67 in _execute
  File "<frozen runpy>", line 88 in _run_code
"""
LOADING_SPIED = f"""Process 15338: python -m resilient.worker.forkserver 3 4
Python v3.11.7 (/usr/bin/python3.11)

Thread 15338 (idle): "MainThread"
    poll (/usr/lib/x86_64-linux-gnu/libc.so.6)
    select_poll_poll (/tmp/build/Modules/clinic/selectmodule.c.h:223)
    _PollLikeSelector.select (/usr/lib/python3.11/selectors.py:415)
    _BaseDataLoaderIter.__next__ ({TORCH}/utils/data/dataloader.py:725)
    Run.steps ({OURS}worker/run.py:90)
    main (/home/me/my project/train.py:41)
    0x7f972a64524a (/usr/lib/x86_64-linux-gnu/libc.so.6)
Thread 15353 (idle): "QueueFeederThread"
    Condition.wait (/usr/lib/python3.11/threading.py:327)
"""


def _frames(*calls: str) -> tuple[stacks.Frame, ...]:
    """Calls are ``function file``, innermost first."""
    (found,) = parse_stacks(
        "Current thread 0x1 (most recent call first):\n"
        + "\n".join('  File "{1}", line 7 in {0}'.format(*call.split(" ", 1)) for call in calls)
    )
    return found.frames


def test_the_thread_that_answers_is_the_main_one() -> None:
    found = main_stack(LOADING)
    assert found is not None
    assert (found.frames[0].function, found.frames[0].line) == ("select", 415)
    assert len(parse_stacks(LOADING)) == 2


def test_what_py_spy_sees_is_read_too_and_c_code_left_out() -> None:
    first, second = parse_stacks(LOADING_SPIED)
    assert [frame.function for frame in first.frames][:2] == [
        "_PollLikeSelector.select",
        "_BaseDataLoaderIter.__next__",
    ]
    assert (first.main, second.main) == (True, False)


def test_what_is_no_stack_says_nothing() -> None:
    assert main_stack("") is None
    assert main_stack("Current thread 0x00007f (most recent call first):\n  <no Python frame>\n") is None
    assert main_stack("Error: Failed to suspend process\n    0: unexpected (libc.so.6)\n") is None


@pytest.mark.parametrize(("text", "name"), [(LOADING, "__next__"), (LOADING_SPIED, "_BaseDataLoaderIter.__next__")])
def test_a_place_is_the_users_line_and_the_call_that_it_waits_for(text: str, name: str) -> None:
    found = main_stack(text)
    assert found is not None
    assert describe(found.frames) == f"{name}, called by main (train.py:41)"


def test_code_of_the_users_own_that_calls_nothing_is_its_own_place() -> None:
    assert describe(_frames("spin /home/me/train.py", "main /home/me/train.py")) == "spin (train.py:7)"


def test_without_any_code_of_the_users_it_is_the_innermost_call() -> None:
    frames = _frames(f"barrier {TORCH}/distributed/distributed_c10d.py", f"steps {OURS}worker/run.py")
    assert describe(frames) == "barrier (torch/distributed/distributed_c10d.py:7)"
    assert describe(()) == ""


def test_an_import_that_does_not_end_is_the_modules() -> None:
    frames = _frames(
        "wait /usr/lib/python3.11/threading.py",
        "<module> /home/me/slow.py",
        "_call_with_frames_removed <frozen importlib._bootstrap>",
        "<module> /home/me/train.py",
    )
    assert describe(frames) == "wait, called by <module> (slow.py:7)"


def test_collectives_and_backward_passes_are_what_ranks_wait_in_for_each_other() -> None:
    assert waits_for_ranks(_frames(f"all_reduce {TORCH}/distributed/distributed_c10d.py", "main /home/me/train.py"))
    assert waits_for_ranks(_frames(f"_engine_run_backward {TORCH}/autograd/graph.py", "main /home/me/train.py"))
    assert not waits_for_ranks(_frames("load /home/me/train.py", f"forward {TORCH}/nn/parallel/distributed.py"))
    loading = main_stack(LOADING)
    assert loading is not None
    assert not waits_for_ranks(loading.frames)
    assert waits_for_data(loading.frames)


def test_a_process_that_loads_data_is_idle_when_it_waits_for_what_to_load() -> None:
    worker = f"_worker_loop {TORCH}/utils/data/_utils/worker.py"
    queue = "get /usr/lib/python3.11/multiprocessing/queues.py"
    assert is_idle_loader(_frames("select /usr/lib/python3.11/selectors.py", queue, worker, "main /home/me/train.py"))
    assert not is_idle_loader(_frames("get /home/me/data.py", f"fetch {TORCH}/utils/data/_utils/fetch.py", worker))
    assert not is_idle_loader(_frames("main /home/me/train.py"))
