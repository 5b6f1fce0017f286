"""Two occurrences of one cause have one signature; two causes have two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.failures import Evidence, classify
from resilient.policy.signatures import LONGEST, normalised


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.02 GiB free. Process 80311 has 78.12 GiB",
            "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 3 has 12.00 MiB free. Process 91 has 79.00 GiB",
        ),
        ("Connection closed by peer [127.0.0.1]:10895", "Connection closed by peer [172.28.0.12]:14004"),
        ("Call to recv from 10.200.84.247<58355> failed", "Call to recv from 10.200.84.12<40001> failed"),
        ("connect to [::1]:29500 failed", "connect to [fe80::1%eth0]:31000 failed"),
        ("<object at 0x7f3b6d41df86>", "<object at 0x7fb7fb080675>"),
        ("No such file: '/tmp/tmpab12cd34/x.bin'", "No such file: '/tmp/tmpzz98yy76/x.bin'"),
        ("DataLoader worker (pid 7731) is killed", "DataLoader worker (pid 12) is killed"),
        ("at 2024-05-03T10:11:12.123Z it broke", "at 2025-01-01 00:00:00 it broke"),
        (
            "[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] x",
            "[E1206 18:44:12.715298746 ProcessGroupNCCL.cpp:616] x",
        ),
        ("key 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "key 11111111-4f89-11d3-9a0c-0305e82cffff"),
        ("a   bug\nin step 3", "a bug in step 40"),
        ("[rank0]: x", "[rank13]: x"),
    ],
)
def test_what_changes_from_time_to_time_is_not_in_a_signature(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("No module named 'a'", "No module named 'b'"),
        ("CUDA out of memory", "CUDA error: unspecified launch failure"),
        ("No such file: '/data/train.bin'", "No such file: '/data/eval.bin'"),
        ("size mismatch for fc.weight", "size mismatch for fc.bias"),
    ],
)
def test_what_tells_causes_apart_stays(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_the_message_for_a_person_keeps_its_numbers() -> None:
    failure = classify(Evidence(1, ("ValueError",), "index 17 of 4"))
    assert failure.signature == "ValueError: index # of #"
    assert failure.text == "ValueError: index 17 of 4"


def test_an_error_from_a_dataloader_worker_is_known_by_its_own_last_line() -> None:
    caught, trace = (
        "Caught ValueError in DataLoader worker process {}.",
        "Original Traceback (most recent call last):\n  a",
    )
    message = f"{caught}\n{trace}\nValueError: {{}}"
    one = classify(Evidence(1, ("ValueError",), message.format(0, "bad label")))
    assert one.signature == "ValueError: ValueError: bad label"
    assert one == classify(Evidence(1, ("ValueError",), message.format(3, "bad label")))
    assert one != classify(Evidence(1, ("ValueError",), message.format(0, "bad image")))


@given(st.text(max_size=3000))
def test_a_signature_is_one_bounded_line_and_stable(text: str) -> None:
    found = normalised(text)
    assert len(found) <= LONGEST
    assert "\n" not in found
    assert not any(char.isdecimal() and char.isascii() for char in found)


@pytest.mark.parametrize(
    "message",
    [
        "could not read s3://AKIA12:hunter2@bucket/x",
        "403 for https://host/x?X-Amz-Signature=hunter2&y=1",
        "header Authorization: Bearer hunter2hunter2",
    ],
)
def test_logins_and_signatures_are_in_no_failure(message: str) -> None:
    for failure in (
        classify(Evidence(1, ("OSError",), message)),
        classify(Evidence(1, log=(f"gloo timed out {message}",))),
    ):
        assert "hunter2" not in repr(failure)
