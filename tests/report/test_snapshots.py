"""What is told of a snapshot."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from resilient.report.snapshots import as_json, render
from resilient.snapshot.inventory import Item, State
from resilient.snapshot.retention import Verdict
from resilient.snapshot.shards import Part, Whole
from tests.snapshot.test_manifest import MANIFEST


def test_a_snapshot_of_a_spread_model_says_so() -> None:
    whole = Whole("F32", (500, 6), (Part(0, (0, 0), (250, 6)), Part(1, (250, 0), (250, 6))))
    manifests = [replace(MANIFEST, tensors={"model.weight": whole}), MANIFEST]
    items = [Item(manifest.step, Path("x"), State.COMMITTED, manifest) for manifest in manifests]
    rows = as_json(items, Verdict((), {}), now=2e9)
    assert [row["sharded"] for row in rows] == [{"tensors": 1, "images": 2, "bytes": 12000}, None]
    shown = []
    for row in rows:
        stream = io.StringIO()
        render([row], stream, detailed=True)
        shown.append(stream.getvalue())
    assert "1 tensors of 12 KB, in parts in 2 images" in shown[0]
    assert "sharded" not in shown[1]


def test_what_is_stored_once_is_told_as_saved() -> None:
    first, second = MANIFEST.files[0], replace(MANIFEST.files[0], name="rank-00001.safetensors", rank=1)
    shared = replace(second, base=0, whole=second.checksum.size + 2_000_000)
    manifests = [replace(MANIFEST, files=(first, shared), world_size=2), MANIFEST]
    rows = as_json([Item(each.step, Path("x"), State.COMMITTED, each) for each in manifests], Verdict((), {}), now=2e9)
    assert [row["saved_bytes"] for row in rows] == [2_000_000, 0]
    stream = io.StringIO()
    render([rows[0]], stream, detailed=True)
    assert "2 MB, which several ranks have alike" in stream.getvalue()
