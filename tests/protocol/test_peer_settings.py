"""Settings of peer memory that could not work are refused before anything is started."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.errors import ConfigurationError
from resilient.protocol.peer_settings import PeerSettings
from resilient.protocol.settings import SnapshotSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"copies": 0},
        {"every_seconds": -1.0},
        {"every_steps": -1},
        {"share": 0.0},
        {"share": 1.5},
        {"cpu_share": 0.0},
        {"bytes_per_second": 1000.0},
        {"bytes_per_second": float("inf")},
        {"timeout_seconds": 0.0},
        {"timeout_seconds": float("nan")},
    ],
)
def test_what_cannot_work_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"peer.{name}"):
        PeerSettings(**wrong)


def test_only_where_images_are_copied_there_is_one_slot_more() -> None:
    snapshot = SnapshotSettings(slots=3)
    assert PeerSettings().slots(snapshot, 2) == 4
    assert PeerSettings().slots(snapshot, 1) == 3
    assert PeerSettings(enabled=False).slots(snapshot, 2) == 3
