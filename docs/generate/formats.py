"""The file formats, as far as the code can say them: examples are made by the code that writes the real ones."""

from __future__ import annotations

import inspect
import json
import re
from enum import IntEnum

from generate.docstrings import Docstring, inline
from generate.markup import code, fenced, json_block, table
from resilient.policy.decisions import LaunchRound
from resilient.policy.events import Tier, WorkerProgressed
from resilient.protocol import board, names, slot, slot_header
from resilient.snapshot import tree
from resilient.snapshot.hashing import CHUNK, Checksum, digest
from resilient.snapshot.image import ITEM_SIZE, PAGE, STATE, Layout, TensorSpec
from resilient.snapshot.manifest import VERSION, VERSION_SHARED, ImageFile, Manifest
from resilient.snapshot.shards import Part, Whole
from resilient.supervisor.journal import plain

_WORD = re.compile(r"^    (?P<name>[A-Z_]+) = (?P<number>\d+)(?:  # (?P<comment>.*))?$")
_COMMENT = re.compile(r"^    # (?P<comment>.*)$")


def pieces() -> dict[str, str]:
    """What stands in the place of ``<!-- format: NAME -->`` on the page."""
    return {
        "image": _image(),
        "state": _tags(),
        "manifest": json_block(json.loads(_manifest())),
        "manifest-fields": _fields(Manifest),
        "manifest-files": _fields(ImageFile),
        "journal": fenced(_journal(), "json"),
        "slot": _words(slot_header.Word),
        "slot-theory": Docstring.of(slot).text.partition("\n\n")[2],
        "board": _words(board.Word),
        "board-theory": Docstring.of(board).text.partition("\n\n")[2],
        "names": _names(),
    }


def _image() -> str:
    layout = Layout.plan([TensorSpec("model.weight", "F32", (8, 8)), TensorSpec("model.bias", "F32", (8,))], 100)
    header = json.loads(layout.header[8:])
    return json_block(header) + (
        f"\n\nHeader and data each fill whole pages of {PAGE} bytes. `{STATE}` is the last tensor and takes up "
        f"what is left of the last page. Types: {', '.join(map(code, ITEM_SIZE))}.\n"
    )


def _tags() -> str:
    rows = [
        (code('{"$float": "nan"}'), "a float that JSON cannot write"),
        (code('{"$tuple": […]}'), "a tuple; likewise `$set` and `$frozenset`"),
        (
            code('{"$dict": [[key, value], …]}'),
            "a dictionary whose keys are not all text; likewise `$ordered`, `$counter`",
        ),
        (code('{"$bytes": "…"}'), "bytes, in base 64"),
        (code('{"$complex": ["1.0", "0.0"]}'), "a complex number"),
        (code('{"$pickle": "…"}'), "with `snapshot.allow_pickle=true` alone, anything else"),
    ]
    known = {*tree._SCALARS, *tree._PAIRS, *tree._SEQUENCES, "$pickle"}
    said = set(re.findall(r"\$[a-z]+", " ".join(text for row in rows for text in row)))
    if known != said:
        raise ValueError(f"tags that the page does not name, or that there are not: {known ^ said}")
    return table(("in JSON", "in Python"), rows)


def _manifest() -> str:
    size = 3 * PAGE
    files = tuple(
        ImageFile(names.image_name(rank), rank, Checksum(size, digest(bytes([rank])), (digest(bytes([rank])),)))
        for rank in range(2)
    )
    whole = Whole("F32", (16, 8), (Part(0, (0, 0), (8, 8)), Part(1, (8, 0), (8, 8))))
    example = Manifest(
        run_id="mine",
        step=50,
        round=3,
        world_size=2,
        identity="b1946ac92492d2347c6235b4d2611184",
        parent=None,
        created=1.8e9,
        files=files,
        metrics={"loss": 2.5, "grad_norm": float("inf")},
        versions={"resilient": "0.1.0", "torch": "2.13.0"},
        tensors={"model.weight": whole},
    )
    return example.to_bytes().decode()


def _fields(kind: type) -> str:
    return table(("field", ""), [(code(name), text) for name, text in Docstring.of(kind).fields["param"].items()])


def _journal() -> str:
    entries = [("event", WorkerProgressed(0, 51)), ("decision", LaunchRound(4, 51, Tier.MEMORY))]
    lines = [
        {"time": 1.8e9, "at": 12.5, "kind": kind, "name": type(item).__name__, "data": plain(item)}
        for kind, item in entries
    ]
    return "\n".join(json.dumps(line) for line in lines)


def _words(kind: type[IntEnum]) -> str:
    """The words of a header, with the comments that stand beside them in the source."""
    rows, heading = [], ""
    for line in inspect.getsource(kind).splitlines():
        if match := _WORD.match(line):
            rows.append((match["number"], code(match["name"].lower()), inline(match["comment"] or ""), heading))
        elif comment := _COMMENT.match(line):
            heading = inline(comment["comment"])
    if len(rows) != len(kind):
        raise ValueError(f"{kind.__name__} has words that were not found in its source")
    return table(("word", "name", "what", ""), sorted(rows, key=lambda row: int(row[0])))


def _names() -> str:
    rows = [
        (code(names.snapshot_name(50)), "the state after 50 steps"),
        (code(names.image_name(0)), "a rank's image in it"),
        (code(names.round_name(3)), "logs of a round"),
        (code(names.log_name(0)), "a rank's log in it"),
        (code(names.log_piece(names.log_name(0), 1)), "an older piece of that log"),
    ]
    return table(("name", "what"), rows) + (
        f"\n\nChunks that have a checksum of their own: {CHUNK >> 20} MiB. Manifests are of version {VERSION}, or "
        f"{VERSION_SHARED} where files lack what another one has.\n"
    )
