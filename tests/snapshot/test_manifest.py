"""The manifest: exact, self-checking, and trusted in nothing before it is validated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import SnapshotCorrupt
from resilient.snapshot import manifest as manifests
from resilient.snapshot.hashing import CHUNK, Checksum, digest
from resilient.snapshot.manifest import ImageFile, Manifest

HASH = "0123456789abcdef" * 2


def image_file(rank: int, size: int = 100) -> ImageFile:
    chunks = tuple(digest(bytes([number])) for number in range(-(-size // CHUNK)))
    return ImageFile(f"rank-{rank:05d}.safetensors", rank, Checksum(size, HASH, chunks))


MANIFEST = Manifest(
    run_id="bytelm",
    step=1234,
    round=3,
    world_size=2,
    identity="a" * 32,
    parent=None,
    created=1700000000.5,
    files=(image_file(0), image_file(1, 3 * CHUNK)),
    metrics={"loss": 0.25, "lr": 0.5},
    versions={"python": "3.11"},
    durations={"step": 0.5, "eval": 40.0},
)


def forged(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A manifest with ``change`` made to it whose own checksum is right all the same."""
    body = json.loads(MANIFEST.to_bytes())
    del body["manifest_xxh3_128"]
    change(body)
    return json.dumps({**body, "manifest_xxh3_128": digest(manifests._dump(body))}).encode()


@given(
    step=st.integers(0, 10**12),
    parent=st.none() | st.text(),
    created=st.floats(0, 1e11),
    sizes=st.lists(st.integers(0, 3 * CHUNK), max_size=3),
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=4),
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_manifest_is_read_as_it_was_written(
    *,
    step: int,
    parent: str | None,
    created: float,
    sizes: list[int],
    metrics: dict[str, float],
    versions: dict[str, str],
) -> None:
    files = tuple(image_file(rank, size) for rank, size in enumerate(sizes))
    written = replace(
        MANIFEST,
        step=step,
        parent=parent,
        created=created,
        files=files,
        world_size=len(files),
        metrics=metrics,
        versions=versions,
    )
    assert Manifest.from_bytes(written.to_bytes()) == written
    assert written.size == sum(sizes)


def test_a_loss_that_is_no_number_does_not_spoil_the_manifest() -> None:
    written = replace(MANIFEST, metrics={"loss": math.nan, "norm": math.inf})
    assert b"NaN" not in written.to_bytes()
    metrics = Manifest.from_bytes(written.to_bytes()).metrics
    assert math.isnan(metrics["loss"])
    assert metrics["norm"] == math.inf


def test_every_flipped_bit_is_found() -> None:
    data = MANIFEST.to_bytes()
    for position in range(len(data)):
        for bit in range(8):
            flipped = data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
            if flipped.split() == data.split():
                continue  # one blank for another
            with pytest.raises(SnapshotCorrupt):
                Manifest.from_bytes(flipped)


def test_truncation_is_found_at_any_length() -> None:
    data = MANIFEST.to_bytes().rstrip()
    for length in range(len(data)):
        with pytest.raises(SnapshotCorrupt):
            Manifest.from_bytes(data[:length])


@given(st.binary(max_size=100))
def test_no_bytes_whatever_are_more_than_corrupt(data: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        Manifest.from_bytes(data)


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b'"x"', b"{}", b'{"manifest_xxh3_128": 1}', b"[" * 100_000])
def test_json_that_is_no_manifest_is_corrupt(data: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        Manifest.from_bytes(data)


def test_a_forged_manifest_without_a_change_is_accepted() -> None:
    assert Manifest.from_bytes(forged(lambda body: None)) == MANIFEST


@pytest.mark.parametrize(
    "name",
    [
        "../rank-00000.safetensors",
        "/etc/passwd",
        "rank-00000.safetensors/../../x",
        "sub/rank-00000.safetensors",
        "rank-0.safetensors",
        "rank-00000.safetensors\n",
        "rank-00000.safetensors\0",
        "manifest.json",
        "..",
        "",
        None,
        3,
    ],
)
def test_a_name_that_could_lead_out_of_the_directory_is_refused(name: Any) -> None:
    with pytest.raises(SnapshotCorrupt, match="malformed"):
        Manifest.from_bytes(forged(lambda body: body["files"][0].update(name=name)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", 3), ("version", 0), ("format", "other"), ("chunk_bytes", 1 << 20), ("version", "1")],
)
def test_another_format_or_version_is_refused(key: str, value: Any) -> None:
    with pytest.raises(SnapshotCorrupt, match="format or version"):
        Manifest.from_bytes(forged(lambda body: body.update({key: value})))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda body: body.pop("step"), id="no step"),
        pytest.param(lambda body: body.pop("files"), id="no files"),
        pytest.param(lambda body: body.update(files=3), id="files is a number"),
        pytest.param(lambda body: body.update(files=[3]), id="a file is a number"),
        pytest.param(lambda body: body.update(durations=[]), id="durations is a list"),
        pytest.param(lambda body: body["durations"].update(eval="long"), id="duration is text"),
        pytest.param(lambda body: body.update(metrics=[]), id="metrics is a list"),
        pytest.param(lambda body: body["metrics"].update(loss="low"), id="metric is text"),
        pytest.param(lambda body: body["metrics"].update(loss=None), id="metric is null"),
        pytest.param(lambda body: body["files"][0].pop("checksum"), id="no checksum"),
        pytest.param(lambda body: body["files"][0]["checksum"].update(size=-1, chunks=[]), id="negative size"),
        pytest.param(lambda body: body["files"][0]["checksum"].update(size=CHUNK + 1), id="too few chunks"),
        pytest.param(lambda body: body["files"][0]["checksum"].update(chunks=[]), id="no chunks"),
        pytest.param(lambda body: body["files"][0]["checksum"].update(chunks=[HASH[:-1]]), id="short hash"),
        pytest.param(lambda body: body["files"][0]["checksum"].update(xxh3_128="x" * 32), id="no hash"),
        pytest.param(lambda body: body["files"][0]["checksum"].update(xxh3_128=None), id="hash is null"),
        pytest.param(lambda body: body["files"][0].update(rank="first"), id="rank is text"),
    ],
)
def test_a_malformed_manifest_is_refused_though_its_checksum_is_right(
    change: Callable[[dict[str, Any]], object],
) -> None:
    with pytest.raises(SnapshotCorrupt, match="malformed"):
        Manifest.from_bytes(forged(change))


def test_a_manifest_too_large_to_be_one_is_not_even_parsed() -> None:
    with pytest.raises(SnapshotCorrupt, match="no manifest"):
        Manifest.from_bytes(bytes((64 << 20) + 1))


def test_a_manifest_from_before_durations_were_kept_is_read() -> None:
    assert Manifest.from_bytes(forged(lambda body: body.pop("durations"))) == replace(MANIFEST, durations={})


def test_what_a_later_release_has_added_is_passed_over() -> None:
    assert Manifest.from_bytes(forged(lambda body: body.update(unknown=1))) == MANIFEST
