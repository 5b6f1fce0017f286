"""Steps as a board shows them."""

from __future__ import annotations

from resilient.drill.progress import Progress


def test_each_step_when_it_was_first_seen_and_again_when_it_is_done_again() -> None:
    now = iter([10.0, 11.0, 12.0, 13.0])
    progress = Progress(clock=lambda: next(now))
    for step in (0, 1, 1, 2, 2, 1, 2):
        progress.note(step)
    assert progress.seen == [(10.0, 1), (11.0, 2), (12.0, 1), (13.0, 2)]
    assert progress.times() == [10.0, 11.0, 12.0, 13.0]
