"""Settings of the trackers: where a run is shown while it goes on, and who is told of its incidents."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from resilient.errors import ConfigurationError

_KINDS = ("started", "metrics", "snapshot", "incident", "rollback", "preempting", "resumed", "ended")
_ALARMING = ("incident", "rollback", "preempting", "ended")
_SECRET_PATHS = ("hooks.slack.com", "discord.com", "discordapp.com", "webhook.office.com", "logic.azure.com")
_LAST_PORT = 65535


class WandbMode(str, Enum):
    """Where Weights & Biases keeps the run."""

    online = "online"  # members are what the configuration file says, and OmegaConf goes by their names
    offline = "offline"


@dataclass(frozen=True)
class WandbSettings:
    """Weights & Biases. Its credentials are found where its own tools find them, and are no settings.

    :param enabled: show the run there.
    :param project: empty for its own default, ``WANDB_PROJECT`` above all.
    :param entity: whose project it is; likewise.
    :param mode: ``offline`` writes to the run directory alone, for ``wandb sync`` later. It is what is done, with a
        warning, where ``online`` does not succeed.
    :param name: shown there; the run's id where it is empty.
    :param group: the group there that the run belongs to.
    :param tags: given to it there.
    :param alerts: incidents and rollbacks are alerts.
    :param system_metrics: have it record what the machine does.
    """

    enabled: bool = False
    project: str = ""
    entity: str = ""
    mode: WandbMode = WandbMode.online
    name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    alerts: bool = True
    system_metrics: bool = True


@dataclass(frozen=True)
class TensorboardSettings:
    """Event files.

    :param enabled: write them.
    :param dir: for them; ``tensorboard`` in the run directory where it is empty.
    """

    enabled: bool = False
    dir: str = ""


@dataclass(frozen=True)
class JsonlSettings:
    """All details as JSON lines.

    :param enabled: write them.
    :param path: of the file; ``trackers/details.jsonl`` in the run directory where it is empty.
    """

    enabled: bool = False
    path: str = ""


@dataclass(frozen=True)
class WebhookSettings:
    """A POST of JSON.

    :param url: the place, where it is no secret.
    :param url_variable: name of an environment variable that has it, where it is.
    :param token_variable: name of one that has a bearer token.
    :param on: what is told: any of ``started``, ``metrics``, ``snapshot``, ``incident``, ``rollback``, ``preempting``,
        ``resumed``, ``ended``.
    :param timeout_seconds: for the other side to answer.
    """

    url: str = ""
    url_variable: str = ""
    token_variable: str = ""
    on: list[str] = field(default_factory=lambda: list(_ALARMING))
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        _check_kinds("webhook", self.on)
        _check_seconds("webhook.timeout_seconds", self.timeout_seconds)
        if self.url and self.url_variable:
            raise ConfigurationError("trackers.webhook has both url and url_variable", "set one of them")
        parts = urlsplit(self.url)
        if self.url and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ConfigurationError("trackers.webhook.url is no http:// or https:// URL")
        known = any(f".{parts.hostname}".endswith(f".{host}") for host in _SECRET_PATHS)
        if parts.username is not None or parts.query or parts.fragment or known:
            raise ConfigurationError(
                "trackers.webhook.url holds a credential, and settings are written to files",
                "put it into an environment variable, and that one's name into trackers.webhook.url_variable",
            )

    @property
    def enabled(self) -> bool:
        return bool(self.url or self.url_variable)


@dataclass(frozen=True)
class CommandSettings:
    """A program that is started with JSON on its standard input.

    :param argv: the program and its arguments; no shell sees them.
    :param on: as of ``webhook``.
    :param timeout_seconds: after which it is killed.
    """

    argv: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=lambda: list(_ALARMING))
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        _check_kinds("command", self.on)
        _check_seconds("command.timeout_seconds", self.timeout_seconds)

    @property
    def enabled(self) -> bool:
        return bool(self.argv)


@dataclass(frozen=True)
class PrometheusSettings:
    """Figures for Prometheus.

    :param textfile: written for the node exporter's textfile collector; it ends with ``.prom``.
    :param port: of this machine, where they can be had at ``http://127.0.0.1:PORT/metrics``; 0 for none.
    """

    textfile: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if self.textfile and not self.textfile.endswith(".prom"):
            raise ConfigurationError(
                f"trackers.prometheus.textfile={self.textfile} does not end with .prom",
                "the node exporter reads no other files",
            )
        if not 0 <= self.port <= _LAST_PORT:
            raise ConfigurationError(f"trackers.prometheus.port={self.port} is no port", "0 is for none")

    @property
    def enabled(self) -> bool:
        return bool(self.textfile or self.port)


@dataclass(frozen=True)
class TrackersSettings:
    """The section ``trackers``. They are a process of their own, which reads the run's journal and metrics.

    :param enabled: false turns all of them off.
    :param end_seconds: how long the run's end waits for them at the most; under a preemption less.
    :param most_behind_bytes: of metrics that a tracker has not read yet; of more, the oldest are left out.
    """

    enabled: bool = True
    wandb: WandbSettings = field(default_factory=WandbSettings)
    tensorboard: TensorboardSettings = field(default_factory=TensorboardSettings)
    jsonl: JsonlSettings = field(default_factory=JsonlSettings)
    webhook: WebhookSettings = field(default_factory=WebhookSettings)
    command: CommandSettings = field(default_factory=CommandSettings)
    prometheus: PrometheusSettings = field(default_factory=PrometheusSettings)
    end_seconds: float = 10.0
    most_behind_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if not (math.isfinite(self.end_seconds) and self.end_seconds >= 0):
            raise ConfigurationError(f"trackers.end_seconds must be at least 0, not {self.end_seconds}")
        if self.most_behind_bytes < 1 << 16:
            raise ConfigurationError(f"trackers.most_behind_bytes must be at least 65536, not {self.most_behind_bytes}")

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the trackers there are to be."""
        names = ("wandb", "tensorboard", "jsonl", "webhook", "command", "prometheus")
        return tuple(name for name in names if self.enabled and getattr(self, name).enabled)

    def require_all(self, environ: Mapping[str, str] = os.environ) -> None:
        """Check, without importing or connecting anything, that what they need is here.

        :raises ConfigurationError: it is not.
        """
        if "wandb" in self.wanted and importlib.util.find_spec("wandb") is None:
            raise ConfigurationError(
                "trackers.wandb needs the package wandb, which is not installed", "pip install wandb"
            )
        for name in (self.webhook.url_variable, self.webhook.token_variable):
            if "webhook" in self.wanted and name and not environ.get(name):
                raise ConfigurationError(f"trackers.webhook: the environment variable {name} is not set", "export it")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> TrackersSettings:
        """What :meth:`to_json` made."""
        sections = {
            "wandb": WandbSettings,
            "tensorboard": TensorboardSettings,
            "jsonl": JsonlSettings,
            "webhook": WebhookSettings,
            "command": CommandSettings,
            "prometheus": PrometheusSettings,
        }
        return cls(**{name: sections[name](**value) if name in sections else value for name, value in body.items()})


def _check_kinds(section: str, kinds: list[str]) -> None:
    for kind in kinds:
        if kind not in _KINDS:
            raise ConfigurationError(f"trackers.{section}.on: {kind} is not known", f"known are: {', '.join(_KINDS)}")


def _check_seconds(name: str, seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigurationError(f"trackers.{name} must be more than 0, not {seconds}")
