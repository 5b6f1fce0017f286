"""What the section ``remote`` accepts, and what it refuses before anything is started."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from resilient.errors import ConfigurationError
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings


def test_without_a_url_there_is_no_remote_tier() -> None:
    assert not RemoteSettings().enabled
    RemoteSettings().require_filesystem()


@pytest.mark.parametrize(
    ("url", "protocol"),
    [("s3://bucket/prefix", "s3"), ("/other/disk", "file"), ("file:///other/disk", "file"), ("S3://b", "s3")],
)
def test_urls(url: str, protocol: str) -> None:
    settings = RemoteSettings(url=url)
    assert settings.protocol == protocol
    settings.require_filesystem()


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AKIA"},
        {"secret": "x"},
        {"token": "x"},
        {"password": "x"},
        {"account_key": "x"},
        {"client_kwargs": {"aws_secret_access_key": "x"}},
        {"sas_token": "x"},
    ],
)
def test_credentials_are_refused_and_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="looks like a credential") as caught:
        RemoteSettings(
            url="s3://b",
            options={key: value if isinstance(value, dict) else "hunter2" for key, value in options.items()},
        )
    assert "hunter2" not in str(caught.value)


def test_ordinary_options_are_accepted() -> None:
    options = {"endpoint_url": "http://x", "profile": "p", "anon": True, "client_kwargs": {"region_name": "eu"}}
    assert RemoteSettings(url="s3://b", options=options).options == options


@pytest.mark.parametrize("url", ["s3://AKIA:hunter2@bucket/x", "https://host/x?X-Amz-Signature=hunter2", "s3://AKIA@b"])
def test_a_credential_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="credential") as caught:
        RemoteSettings(url=url)
    assert "hunter2" not in str(caught.value)


def test_memory_dies_with_its_process() -> None:
    with pytest.raises(ConfigurationError, match="dies with the process"):
        RemoteSettings(url="memory://x")


def test_an_unknown_filesystem_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)s4:// is no filesystem.*known are.*s3"):
        RemoteSettings(url="s4://bucket").require_filesystem()


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "s3fs" else found(name))
    with pytest.raises(ConfigurationError, match=r"(?s)needs the package s3fs.*pip install 'resilient\[s3\]'"):
        RemoteSettings(url="s3://bucket").require_filesystem()


@pytest.mark.parametrize(
    ("name", "value"), [("every_steps", -1), ("every_seconds", float("nan")), ("attempts", 0), ("bytes_per_second", -1)]
)
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"remote.{name}"):
        RemoteSettings(**{name: value})  # type: ignore[arg-type]


def test_settings_survive_the_way_to_the_helper() -> None:
    settings = RemoteSettings(
        url="s3://b", options={"anon": True}, retention=RetentionSettings(last=2, best=1, best_metric="loss")
    )
    assert RemoteSettings.of(json.loads(json.dumps(settings.to_json()))) == settings


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the section remote cannot be read"):
        RemoteSettings.of({"ulr": "s3://b"})
