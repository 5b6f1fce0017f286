"""What two failures of one cause have in common: their message without what changes from one time to the next."""

from __future__ import annotations

import re

LONGEST = 300  # characters of a signature; what follows is detail

# In this order: a later pattern must not see the pieces of an earlier one. Numbers go last and all of them: sizes of
# allocations, steps, ranks, ports, line numbers of a library's source. The step is compared beside the signature.
_CHANGING = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x#"),
    (re.compile(r"\d{4}-\d\d-\d\d[T _]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "TIME"),
    (re.compile(r"\[[EWI]\d{3,4} \d\d:\d\d:\d\d\.\d+ "), "["),  # glog, as torch's C++ side writes it
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "TIME"),
    (re.compile(r"\[?\b\d{1,3}(?:\.\d{1,3}){3}\b\]?(?:[:<]\d+>?)?"), "ADDRESS"),
    (re.compile(r"\[[0-9a-fA-F:]*:[0-9a-fA-F:]+(?:%\w+)?\](?::\d+)?"), "ADDRESS"),
    (re.compile(r"(?<![\w.])(?:/tmp|/var/tmp|/dev/shm|/run/user/\d+)/[^\s'\":,;)\]]+"), "TEMPORARY"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "HEX"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"), "HEX"),
    (re.compile(r"(?<=_)(?=[a-z0-9_]*\d)[a-z0-9_]{8}\b"), "RANDOM"),  # tempfile's names, wherever they lie
    (re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"), "#"),
    (re.compile(r"# (?:[KMGT]i?B|bytes)\b"), "# bytes"),
)
# What must not get into a journal, wherever a library puts it into a message: logins and signatures of addresses.
_SECRETS = (
    (re.compile(r"(?<=://)[^/@\s'\"]+@"), "…@"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), r"\1…"),
    (
        re.compile(r"(?i)\b((?:X-Amz-(?:Signature|Credential|Security-Token)|sig|signature|AccessKeyId)=)[^&\s'\"]+"),
        r"\1…",
    ),
)
_BLANKS = re.compile(r"\s+")


def normalised(message: str) -> str:
    """``message`` in one line, without addresses, process numbers, ports, times, temporary names and numbers."""
    text = without_secrets(message[: 8 * LONGEST])
    for pattern, word in _CHANGING:
        text = pattern.sub(word, text)
    return _BLANKS.sub(" ", text).strip()[:LONGEST]


def without_secrets(message: str) -> str:
    """``message`` without logins and signatures in the addresses it tells."""
    for pattern, instead in _SECRETS:
        message = pattern.sub(instead, message)
    return message
