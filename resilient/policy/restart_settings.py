"""The section ``restarts`` of the configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from resilient.errors import ConfigurationError
from resilient.policy.failed_rounds import History
from resilient.policy.failures import FailureClass

_Number = TypeVar("_Number", int, float)
_BY_NAME = {failure_class.name.lower(): failure_class for failure_class in FailureClass}


@dataclass(frozen=True)
class RestartSettings:
    """Budgets of a run; the section ``restarts`` of the configuration.

    :param max_failures: failures in a row without any progress between them, whatever their cause.
    :param intensity: at most this many failures …
    :param intensity_seconds: … within this many seconds.
    :param crash_loop: the same failure at the same step, this many times in a row, stops the run.
    :param per_class: failures of one class in a row without progress, such as ``{hang: 5}``, in place of what the class
        has by itself.
    :param first_wait: seconds to wait before the relaunch after a second failure without progress; doubled each time.
    :param max_wait: seconds to wait at the most, but for the jitter.
    :param jitter: part of a wait that is added at the most, so that runs that failed together do not come back
        together.
    :param class_waits: seconds; after a failure of one class never less is waited, such as ``{transient_io: 30}``, in
        place of what the class has by itself.
    :param success_steps: so many new steps are progress, which gives all budgets back.
    :param success_seconds: so is any new step of a round that was up for so long; 0 for not counting time.
    """

    max_failures: int = 10
    intensity: int = 30
    intensity_seconds: float = 600.0
    crash_loop: int = 3
    per_class: dict[str, int] = field(default_factory=dict)
    first_wait: float = 1.0
    max_wait: float = 60.0
    jitter: float = 0.1
    class_waits: dict[str, float] = field(default_factory=dict)
    success_steps: int = 1
    success_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_failures", "intensity", "crash_loop"):
            if not 1 <= getattr(self, name) < History.LIMIT:
                raise ConfigurationError(
                    f"restarts.{name} must be at least 1 and below {History.LIMIT}, not {getattr(self, name)}"
                )
        for key, most in self.per_class.items():
            if not 1 <= most < History.LIMIT:
                raise ConfigurationError(
                    f"restarts.per_class.{key} must be at least 1 and below {History.LIMIT}, not {most}"
                )
        if self.first_wait < 0 or self.max_wait < self.first_wait:
            raise ConfigurationError(
                f"restarts.first_wait ({self.first_wait}) and restarts.max_wait ({self.max_wait}) must be "
                "0 ≤ first_wait ≤ max_wait"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"restarts.jitter must be between 0 and 1, not {self.jitter}")
        if any(seconds < 0 for seconds in self.class_waits.values()):
            raise ConfigurationError(f"restarts.class_waits must not be negative: {self.class_waits}")
        if self.success_steps < 1:
            raise ConfigurationError(f"restarts.success_steps must be at least 1, not {self.success_steps}")
        if self.success_seconds < 0:
            raise ConfigurationError(f"restarts.success_seconds must not be negative, not {self.success_seconds}")
        _by_class("per_class", self.per_class)
        _by_class("class_waits", self.class_waits)

    @property
    def budgets(self) -> Mapping[FailureClass, int]:
        """``per_class`` by class."""
        return _by_class("per_class", self.per_class)

    @property
    def least_waits(self) -> Mapping[FailureClass, float]:
        """``class_waits`` by class."""
        return _by_class("class_waits", self.class_waits)


def _by_class(setting: str, values: Mapping[str, _Number]) -> dict[FailureClass, _Number]:
    """The values by class.

    :raises ConfigurationError: there is no such class; the message names the nearest.
    """
    found = {}
    for key, value in values.items():
        name = key.lower().replace(" ", "_").replace("-", "_")
        if name not in _BY_NAME:
            close = difflib.get_close_matches(name, _BY_NAME, 1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"classes are: {', '.join(_BY_NAME)}"
            raise ConfigurationError(f"restarts.{setting}.{key} is no class of failures", hint)
        found[_BY_NAME[name]] = value
    return found
