from __future__ import annotations

from pathlib import Path

import pytest

from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import bucket, bucket_directory, catalog, copies, hashing, manifest, upload
from tests.buckets import make_s3

SMALL = 5 << 20  # the least that S3 takes for a part


@pytest.fixture(params=["s3", "directory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteSettings:
    """A real S3 server on loopback, and a second directory."""
    if request.param == "s3":
        return make_s3(request.getfixturevalue("s3_endpoint"))
    place = tmp_path / "other disk"
    place.mkdir()
    return RemoteSettings(url=str(place), attempts=2)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 5 MiB, so that images of several need not be large."""
    for module in (bucket, bucket_directory, catalog, copies, hashing, manifest, upload):
        monkeypatch.setattr(module, "CHUNK", SMALL)
    return SMALL
