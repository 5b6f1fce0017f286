"""The settings of the detectors: what is refused, by name, and that each preset is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from resilient.errors import ConfigurationError
from resilient.policy.divergence import DivergenceSettings, MetricSettings

PRESETS = Path(__file__).resolve().parents[2] / "conf" / "divergence"


def preset(name: str) -> DivergenceSettings:
    return DivergenceSettings.from_mapping(yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))


def test_every_preset_loads() -> None:
    assert sorted(path.stem for path in PRESETS.glob("*.yaml")) == ["default", "off", "strict", "watch"]
    for path in PRESETS.glob("*.yaml"):
        preset(path.stem)


def test_the_default_preset_says_what_the_defaults_are() -> None:
    assert preset("default") == DivergenceSettings()


def test_off_looks_away_and_watch_does_not_act() -> None:
    assert not preset("off").enabled
    assert preset("watch").enabled
    assert not preset("watch").respond
    assert preset("watch").metrics == DivergenceSettings().metrics


def test_strict_is_stricter_in_everything_it_sets() -> None:
    strict, default = preset("strict").metrics["loss"], MetricSettings()
    assert strict.spike.threshold < default.spike.threshold
    assert strict.spike.hits < default.spike.hits
    assert strict.spike.patience < default.spike.patience
    assert strict.drift.margin < default.drift.margin
    assert strict.drift.held < default.drift.held


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"warmup_steps": -1}, r"divergence\.warmup_steps"),
        ({"margin": -1}, r"divergence\.margin"),
        ({"replay": {"max_seconds": -1.0}}, r"divergence\.replay\.max_seconds"),
        ({"replay": {"enabled": 1}}, r"divergence\.replay\.enabled must be of type bool"),
        ({"good_after": -1}, r"divergence\.good_after"),
        ({"warmup_steps": 1.5}, r"divergence\.warmup_steps must be of type int"),
        ({"enabled": 1}, r"divergence\.enabled must be of type bool"),
        ({"metrics": {"loss": {"nonfinite": -1}}}, r"divergence\.metrics\.loss\.nonfinite"),
        ({"metrics": {"loss": {"spike": {"hits": 6}}}}, r"metrics\.loss\.spike\.hits .*spike\.of"),
        ({"metrics": {"loss": {"spike": {"armed_hits": 0}}}}, r"spike\.armed_hits"),
        ({"metrics": {"loss": {"spike": {"history": 300}}}}, r"spike\.history .*spike\.window"),
        ({"metrics": {"loss": {"spike": {"window": 10**9}}}}, r"spike\.window"),
        ({"metrics": {"loss": {"spike": {"level_window": 0}}}}, r"spike\.level_window"),
        ({"metrics": {"loss": {"spike": {"accept_after": 30}}}}, r"spike\.accept_after"),
        ({"metrics": {"loss": {"spike": {"threshold": float("nan")}}}}, r"spike\.threshold"),
        ({"metrics": {"loss": {"spike": {"armed_threshold": 0.5}}}}, r"spike\.armed_threshold"),
        ({"metrics": {"loss": {"spike": {"floor": 2}}}}, r"spike\.floor"),
        ({"metrics": {"loss": {"spike": {"recovered": 0}}}}, r"spike\.recovered"),
        ({"metrics": {"loss": {"spike": {"patience": -1}}}}, r"spike\.patience"),
        ({"metrics": {"loss": {"drift": {"smoothing": 0}}}}, r"drift\.smoothing"),
        ({"metrics": {"loss": {"drift": {"held": 0}}}}, r"drift\.held"),
        ({"metrics": {"loss": {"drift": {"accept_after": 3}}}}, r"drift\.accept_after .*drift\.held"),
        ({"metrics": {"loss": {"drift": {"margin": -0.1}}}}, r"drift\.margin"),
        ({"metrics": {"loss": {"drift": {"spreads": -1}}}}, r"drift\.spreads"),
        ({"grad_norm": {"threshold": 0}}, r"divergence\.grad_norm\.threshold"),
        ({"grad_norm": {"history": 1000}}, r"divergence\.grad_norm\.history .*grad_norm\.window"),
        ({"grad_norm": {"floor": -1}}, r"divergence\.grad_norm\.floor"),
        ({"grad_norm": {"window": 1}}, r"divergence\.grad_norm\.window"),
        ({"grad_norm": {"accept_after": 0}}, r"divergence\.grad_norm\.accept_after"),
        ({"grad_norm": {"nonfinite": -1}}, r"divergence\.grad_norm\.nonfinite"),
        ({"grad_norm": {"metric": "loss"}}, r"divergence\.grad_norm\.metric are the same"),
        ({"metrics": {"loss": {"spik": {}}}}, r"did you mean divergence\.metrics\.loss\.spike\?"),
        ({"metric": {}}, r"did you mean divergence\.metrics\?"),
        ({"metrics": {"loss": 3}}, r"divergence\.metrics\.loss must be a section"),
        ({"metrics": 3}, r"divergence\.metrics must be a section"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tree: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DivergenceSettings.from_mapping(tree)
    caught.match(key)
    assert caught.value.remedy


def test_what_is_not_said_keeps_its_default_in_each_metric() -> None:
    settings = DivergenceSettings.from_mapping({"metrics": {"eval": {"spike": {"threshold": 9}}}})
    assert list(settings.metrics) == ["eval"]
    assert settings.metrics["eval"].spike.threshold == 9.0
    assert settings.metrics["eval"].drift == MetricSettings().drift
