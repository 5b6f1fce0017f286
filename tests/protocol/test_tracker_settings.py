"""The section ``trackers``: what cannot work is found before anything starts, and credentials are no settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient.config import load
from resilient.errors import ConfigurationError
from resilient.protocol.tracker_settings import (
    CommandSettings,
    JsonlSettings,
    PrometheusSettings,
    TrackersSettings,
    WandbMode,
    WandbSettings,
    WebhookSettings,
)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("hooks.example.org/x", "is no http"),
        ("ftp://example.org/x", "is no http"),
        ("https://me:pw@example.org/x", "holds a credential"),
        ("https://example.org/x?token=abc", "holds a credential"),
        ("https://hooks.slack.com/services/T0/B0/abc", "holds a credential"),
        ("https://eu.webhook.office.com/abc", "holds a credential"),
    ],
)
def test_a_url_that_holds_a_credential_is_refused_and_not_repeated(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        WebhookSettings(url=url)
    assert url not in str(caught.value)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="one of them"):
        WebhookSettings(url="https://example.org", url_variable="HOOK")
    with pytest.raises(ConfigurationError, match="incidents is not known"):
        CommandSettings(argv=["x"], on=["incidents"])
    with pytest.raises(ConfigurationError, match="more than 0"):
        CommandSettings(argv=["x"], timeout_seconds=0)
    with pytest.raises(ConfigurationError, match=r"does not end with \.prom"):
        PrometheusSettings(textfile="/var/lib/run.txt")
    with pytest.raises(ConfigurationError, match="is no port"):
        PrometheusSettings(port=70000)
    with pytest.raises(ConfigurationError, match="at least 0"):
        TrackersSettings(end_seconds=float("nan"))
    with pytest.raises(ConfigurationError, match="at least 65536"):
        TrackersSettings(most_behind_bytes=0)


def test_a_variable_that_is_named_has_to_be_there() -> None:
    settings = TrackersSettings(webhook=WebhookSettings(url_variable="HOOK", token_variable="TOKEN"))  # noqa: S106
    with pytest.raises(ConfigurationError, match="variable TOKEN is not set"):
        settings.require_all({"HOOK": "https://example.org"})
    settings.require_all({"HOOK": "https://example.org", "TOKEN": "x"})


def test_nothing_is_wanted_by_itself_and_all_can_be_turned_off() -> None:
    assert TrackersSettings().wanted == ()
    some = TrackersSettings(wandb=WandbSettings(enabled=True), prometheus=PrometheusSettings(port=9))
    assert some.wanted == ("wandb", "prometheus")
    assert TrackersSettings(enabled=False, wandb=WandbSettings(enabled=True)).wanted == ()


def test_they_go_through_json() -> None:
    settings = TrackersSettings(
        wandb=WandbSettings(enabled=True, mode=WandbMode.offline, tags=["a"]), jsonl=JsonlSettings(enabled=True)
    )
    assert TrackersSettings.of(json.loads(json.dumps(settings.to_json()))) == settings


def test_they_are_a_group_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "x.yaml").write_text("worker: {script: a.py}\ntrackers: {wandb: {enabled: true}}\n")
    config = load("x", ["trackers.wandb.mode=offline", "trackers.command.argv=[mail, me]"]).config
    assert config.trackers.wanted == ("wandb", "command")
    assert config.trackers.wandb.mode is WandbMode.offline
    with pytest.raises(ConfigurationError, match=r"trackers\.wandb\.projet is not a known key") as caught:
        load("x", ["trackers.wandb.projet=p"])
    assert "did you mean trackers.wandb.project?" in str(caught.value)
    with pytest.raises(ConfigurationError, match="holds a credential"):
        load("x", ["trackers.webhook.url='https://hooks.slack.com/x'"])
