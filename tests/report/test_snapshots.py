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
