"""Settings of the remote tier: a second place for snapshots, which outlives the machine."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from resilient.errors import ConfigurationError
from resilient.protocol.settings import RetentionSettings

_LEAST = (("every_steps", 0), ("every_seconds", 0), ("bytes_per_second", 0), ("attempts", 1), ("patience_seconds", 0))

_SECRET = re.compile(r"secret|token|password|passwd|passphrase|credential|signature|(^|[_-])key$|apikey", re.IGNORECASE)

# Asked of a table and not of fsspec, which the supervisor does not import. Filesystems that other packages register
# are found by their entry point.
_PACKAGES: Mapping[str, str] = {
    "file": "fsspec",
    "local": "fsspec",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "hdfs": "pyarrow",
    "webhdfs": "requests",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "oci": "ocifs",
    "oss": "ossfs",
    "webdav": "webdav4",
}


@dataclass(frozen=True)
class RemoteSettings:
    """The section ``remote``: which durable snapshots are copied to a second place, and which of them stay there.

    Credentials are no settings: whatever stands here is written to ``config.yaml`` and shown. They are found where the
    service's own tools find them: environment variables, profiles, the machine's role.

    :param url: the place, as fsspec writes it: ``s3://bucket/prefix``, ``file:///other/disk``, ``/other/disk``; empty
        for none. The run's snapshots lie in a directory of it that is named after the run.
    :param options: passed on to the filesystem, for example ``endpoint_url`` or ``profile``.
    :param every_steps: copy those whose step is a multiple of this; 0 to go by time alone.
    :param every_seconds: copy one at least so many seconds after the last that was copied; 0 to go by steps alone. With
        both 0 every durable snapshot is copied. The last one of a run, and of a preempted one, always is.
    :param retention: which snapshots stay there; its own rules, as in the section ``retention``.
    :param bytes_per_second: upload no faster than this on average, 64 MiB at a time; 0 for no limit.
    :param attempts: how often an operation that may succeed later is tried in all, with growing waits in between.
    :param patience_seconds: how long a start waits to hear what lies there, where there is something nearer to resume
        from.
    """

    url: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    every_steps: int = 0
    every_seconds: float = 0.0
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    bytes_per_second: float = 0.0
    attempts: int = 6
    patience_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, least in _LEAST:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigurationError(f"remote.{name} must be at least {least}, not {value}")
        for key in _keys(self.options):
            if _SECRET.search(key):
                raise ConfigurationError(
                    f"remote.options.{key} looks like a credential, and settings are written to files",
                    "leave it to the environment variables or the profile that the service's own tools read",
                )
        self._check_url()

    def _check_url(self) -> None:
        parts = urlsplit(self.url)
        if "::" in self.url:
            raise ConfigurationError(f"remote.url={self.url} chains filesystems", "name the place alone")
        if parts.password is not None or (parts.username is not None and self.protocol.startswith("s3")) or parts.query:
            raise ConfigurationError(
                "remote.url holds a credential or a query, and settings are written to files",
                "leave credentials to environment variables or a profile, and put options in remote.options",
            )
        if self.protocol == "memory":
            raise ConfigurationError(
                "remote.url=memory://: that memory dies with the process that uploads",
                "name a directory or a bucket: remote.url=/other/disk or remote.url=s3://bucket/prefix",
            )

    @property
    def enabled(self) -> bool:
        return bool(self.url)

    @property
    def protocol(self) -> str:
        """The filesystem's name as fsspec has it; ``file`` for a plain path."""
        return self.url.split("://", 1)[0].lower() if "://" in self.url else "file"

    def wants(self, step: int, since_last: float) -> bool:
        """Whether the durable snapshot of ``step`` is to be copied.

        :param since_last: seconds since the last one that was.
        """
        if not self.every_steps and not self.every_seconds:
            return True
        by_steps = bool(self.every_steps) and step % self.every_steps == 0
        return by_steps or (bool(self.every_seconds) and since_last >= self.every_seconds)

    def require_filesystem(self) -> None:
        """Check, without the network and without importing it, that the filesystem is known and its package is here.

        :raises ConfigurationError: it is not; the message names what to install.
        """
        if not self.enabled:
            return
        package = _PACKAGES.get(self.protocol) or _registered(self.protocol)
        if package is None:
            raise ConfigurationError(
                f"remote.url={self.url}: {self.protocol}:// is no filesystem that snapshots can be kept in",
                f"known are {', '.join(sorted(_PACKAGES))}, and whatever an installed package registers with fsspec",
            )
        for needed in ("fsspec", package):
            if importlib.util.find_spec(needed) is None:
                extra = "; for S3: pip install 'resilient[s3]'" if needed == "s3fs" else ""
                raise ConfigurationError(
                    f"remote.url={self.url} needs the package {needed}, which is not installed",
                    f"pip install {needed}{extra}",
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> RemoteSettings:
        """From plain values, as in JSON or YAML.

        :raises ConfigurationError: a key is not known, or a value cannot be used.
        """
        try:
            retention = RetentionSettings.of(body.get("retention") or {})
            return cls(**{**body, "retention": retention, "options": dict(body.get("options") or {})})
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the section remote cannot be read: {error}") from error


def _keys(options: Mapping[str, Any]) -> Iterator[str]:
    for key, value in options.items():
        yield str(key)
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _keys(value))


def _registered(protocol: str) -> str | None:
    from importlib.metadata import entry_points  # noqa: PLC0415  for the rare filesystem that is not in the table

    found = [entry.value for entry in entry_points(group="fsspec.specs") if entry.name == protocol]
    return found[0].split(":")[0].split(".")[0] if found else None
