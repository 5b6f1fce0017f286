"""Configurations: found, composed, checked; every mistake named with the key and the nearest right one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from resilient.config import builtin_directory, check_drift, expand_sweep, load
from resilient.errors import ConfigurationDrift, ConfigurationError, ExitCode
from resilient.policy.divergence import DivergenceSettings, MetricSettings
from resilient.policy.divergence.settings import DriftSettings
from resilient.policy.nodes import NodeSettings, Shortage
from resilient.protocol.settings import FingerprintSettings
from resilient.supervisor.settings import FinishedBy


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a ``conf`` folder of the user's own."""
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "mine.yaml").write_text("worker: {script: train.py}\ntrain: {lr: 1e-3, model: {width: 8}}\n")
    return tmp_path


def refused(conf: str, *overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(conf, overrides)
    assert caught.value.exit_code is ExitCode.CONFIG
    return str(caught.value)


def test_builtin_name(here: Path) -> None:
    composed = load("demo", ["train.lr=1e-4", "snapshot.every_steps=25"])
    assert composed.config.train["lr"] == 1e-4
    assert composed.config.snapshot.every_steps == 25
    assert composed.config.run.id == "demo"
    assert Path(composed.config.worker.script) == builtin_directory("examples") / "bytelm" / "train.py"


def test_name_in_the_users_conf_and_path(here: Path) -> None:
    assert load("mine", []).config.worker.script == "train.py"
    assert load("conf/mine.yaml", []).tree == load("mine", []).tree
    (here / "elsewhere.yaml").write_text("worker: {module: pkg.train}\n")
    composed = load("./elsewhere.yaml", [])
    assert composed.config.worker.module == "pkg.train"
    assert composed.config.run.id == "elsewhere"


def test_users_file_hides_the_builtin_one_and_may_build_on_it(here: Path) -> None:
    (here / "conf" / "faster.yaml").write_text("defaults: [demo, _self_]\ntrain: {steps: 7}\n")
    composed = load("faster", [])
    assert composed.config.train["steps"] == 7
    assert composed.config.train["lr"] == 2e-3


def test_groups_of_the_user(here: Path) -> None:
    group = here / "conf" / "train"
    group.mkdir()
    (group / "big.yaml").write_text("lr: 9e-4\nlayers: 24\n")
    (here / "conf" / "grouped.yaml").write_text("defaults: [train: big, _self_]\nworker: {script: a.py}\n")
    assert load("grouped", ["train.layers=12"]).config.train == {"lr": 9e-4, "layers": 12}


@pytest.mark.parametrize(
    ("override", "named", "hint"),
    [
        ("snapshot.evry_steps=2", "snapshot.evry_steps is not a known key", "did you mean snapshot.every_steps?"),
        ("snapshots.every_steps=2", "snapshots is not a known key", "did you mean snapshot?"),
        ("train.lrr=2", "train.lrr is not a known key", "did you mean train.lr?"),
        ("train.model.widht=2", "train.model.widht is not a known key", "did you mean train.model.width?"),
        ("zzz=2", "zzz is not a known key", "known are: worker, run, snapshot"),
        ("snapshot.every_steps=often", "snapshot.every_steps", "could not be converted to Integer"),
        ("snapshot.slots=1", "snapshot.slots", "at least 2"),
        ("snapshot.memory_every_steps=7", "no multiple of", "make snapshot.every_steps a multiple"),
        ("retention.last=0", "retention.last", "at least 1"),
        ("retention.best=2", "retention.best=2 needs retention.best_metric", "retention.best_metric=loss"),
        ("retention.best_mode=least", "retention.best_mode", "max"),
        ("worker.module=x", "both worker.script and worker.module", "set worker.script"),
        ("worker.script=''", "nothing to train is named", "set worker.script"),
        ("worker.finished_by=luck", "worker.finished_by", "exit_code"),
        ("stop.ask_fraction=0.9", "stop.ask_fraction", "term_fraction"),
        ("restarts.crash_loop=0", "restarts.crash_loop", "at least 1"),
        ("hang.factor=0.5", "hang.factor", "at least 1"),
        ("+snapshot.evry_steps=2", "snapshot.evry_steps is not a known key", "did you mean snapshot.every_steps?"),
        ("divergence.margn=2", "divergence.margn is not a known key", "did you mean divergence.margin?"),
        ("divergence.margin=-1", "divergence.margin", "between 0 and"),
        (
            "divergence.metrics.loss.spike.treshold=4",
            "divergence.metrics.loss.spike.treshold is not a known key",
            "did you mean divergence.metrics.loss.spike.threshold?",
        ),
        (
            "+divergence.metrics.new.spike.treshold=4",
            "divergence.metrics.new.spike.treshold is not a known key",
            "did you mean divergence.metrics.new.spike.threshold?",
        ),
        ("divergence.metrics.los.nonfinite=4", "divergence.metrics.los is not a known key", "metrics.loss?"),
        ("divergence.metrics.los.nonfinite=4", "divergence.metrics.los is not a known key", "write +divergence.metric"),
        ("+divergence.metrics.new.spike.hits=often", "divergence.metrics.new.spike.hits", "converted to Integer"),
        ("+divergence.metrics.new.spike.hits=6", "divergence.metrics.new.spike.hits", "spike.of"),
        ("+divergence.metrics.grad_norm={}", "are the same metric", "watch it as one of the two"),
        ("divergence=strct", "divergence=strct: there is no such preset", "did you mean divergence=strict?"),
        ("divergence=", "there is no such preset", "divergence=off"),
        ("run.id=a/b", "a/b", "letters, digits"),
        ("hydra.run.dir=x", "hydra.run.dir", "remove it"),
        ("train.lr=1,2", "is a sweep", "--multirun"),
        ("not an override", "could not be understood", "key=value"),
    ],
)
def test_mistakes_name_the_key_and_the_way_out(here: Path, override: str, named: str, hint: str) -> None:
    if override.startswith("run.id"):
        from resilient.protocol.paths import RunPaths

        config = load("mine", [override]).config
        with pytest.raises(ConfigurationError) as caught:
            RunPaths.of(config.run.dir, config.run.id)
        text = str(caught.value)
    else:
        text = refused("mine", override)
    assert named in text
    assert hint in text


def test_unknown_configuration_names_the_nearest(here: Path) -> None:
    assert "did you mean mine?" in refused("mnie")
    assert "there is no file" in refused("nowhere/x.yaml")


def test_unknown_key_in_the_file_is_refused_as_on_the_command_line(here: Path) -> None:
    (here / "conf" / "typo.yaml").write_text("worker: {script: a.py}\nsnapshot: {evry_steps: 5}\n")
    assert "snapshot.evry_steps is not a known key" in refused("typo")


def test_broken_yaml_names_the_file(here: Path) -> None:
    (here / "conf" / "broken.yaml").write_text("worker: [unclosed\n")
    assert "broken.yaml" in refused("broken")


def test_missing_interpolation_is_an_error_at_once(here: Path) -> None:
    (here / "conf" / "dangling.yaml").write_text("worker: {script: a.py}\ntrain: {lr: '${nope}'}\n")
    assert "nope" in refused("dangling")


def test_keys_that_are_free_need_no_plus(here: Path) -> None:
    overrides = ["worker.env.CUDA_LAUNCH_BLOCKING=1", "restarts.per_class={hang: 5}", "restarts.class_waits.hang=2"]
    loaded = load("mine", overrides)
    assert loaded.config.worker.env["CUDA_LAUNCH_BLOCKING"] == "1"
    assert loaded.config.restarts.per_class == {"hang": 5}
    assert loaded.config.restarts.class_waits == {"hang": 2.0}
    with pytest.raises(ConfigurationError, match="hangg"):
        load("mine", ["restarts.per_class.hangg=5"])


def test_new_keys_for_the_script_by_plus(here: Path) -> None:
    assert load("mine", ["+train.extra=[1,2]"]).config.train["extra"] == [1, 2]


def test_enumerations_by_name(here: Path) -> None:
    assert load("mine", ["worker.finished_by=exit_code"]).config.worker.finished_by is FinishedBy.exit_code


def test_sweep_gives_every_combination_a_run_of_its_own(here: Path) -> None:
    jobs = list(expand_sweep(["train.lr=1e-3,1e-4", "train.model.width=8,16", "retention.last=2"]))
    ids = [load("mine", overrides, suffix=name).config.run.id for name, overrides in jobs]
    assert len(set(ids)) == 4
    assert ids[0] == "mine-train.lr=0.001,train.model.width=8"
    assert jobs == list(expand_sweep(["train.lr=1e-3,1e-4", "train.model.width=8,16", "retention.last=2"]))


def test_drift(here: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    assert check_drift(saved, load("mine", []), allow=False) == []
    saved.write_text(load("mine", []).to_yaml())
    assert check_drift(saved, load("mine", []), allow=False) == []
    assert check_drift(saved, load("mine", ["run.allow_drift=true"]), allow=True) == []
    changed = load("mine", ["train.lr=5", "+train.new=1"])
    with pytest.raises(ConfigurationDrift, match=r"train\.lr: 0\.001 → 5"):
        check_drift(saved, changed, allow=False)
    assert check_drift(saved, changed, allow=True) == ["train.lr: 0.001 → 5", "train.new: (absent) → 1"]


def test_a_setting_that_did_not_exist_when_the_run_was_started_is_no_drift_at_its_default(
    here: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "config.yaml"
    older = yaml.safe_load(load("mine", []).to_yaml())
    del older["remote"], older["snapshot"]["auto"]
    saved.write_text(yaml.safe_dump(older))
    assert check_drift(saved, load("mine", []), allow=False) == []
    assert check_drift(saved, load("mine", ["snapshot.auto=true"]), allow=True) == ["snapshot.auto: False → True"]


def test_composing_leaves_nothing_behind(here: Path) -> None:
    """Hydra's own habit of making dated output folders would give every relaunch a new place and no snapshot."""
    load("mine", [])
    assert sorted(path.name for path in here.iterdir()) == ["conf"]


def test_the_remote_tier_has_options_and_a_retention_of_its_own(here: Path) -> None:
    options = "{endpoint_url: 'http://x', client_kwargs: {region_name: eu}}"
    remote = f"remote: {{url: 's3://b/x', options: {options}, retention: {{last: 5}}}}\n"
    (here / "conf" / "far.yaml").write_text("worker: {script: a.py}\n" + remote)
    config = load("far", ["remote.every_steps=10", "+remote.options.profile=p"]).config
    assert config.remote.options == {"endpoint_url": "http://x", "client_kwargs": {"region_name": "eu"}, "profile": "p"}
    assert (config.remote.retention.last, config.retention.last, config.remote.every_steps) == (5, 3, 10)
    assert load("far", ["remote.options.anon=true"]).config.remote.options["anon"] is True
    assert "looks like a credential" in refused("far", "+remote.options.secret=hunter2")
    assert "hunter2" not in refused("far", "+remote.options.secret=hunter2")


def test_what_is_shown_and_how_much_room_logs_take_may_change_from_launch_to_launch(here: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(load("mine", []).to_yaml())
    changed = load("mine", ["console.ranks=all", "console.prefix=always", "logs.max_bytes=5000"])
    assert check_drift(saved, changed, allow=False) == []
    assert changed.config.console.shows(7)
    assert load("mine", ["console.ranks=[0,3]"]).config.console.ranks == [0, 3]
    assert "console.ranks" in refused("mine", "console.ranks=some")
    assert "logs.keep" in refused("mine", "logs.keep=0")


def preset(name: str) -> DivergenceSettings:
    return DivergenceSettings.from_mapping(
        yaml.safe_load((builtin_directory("conf") / "divergence" / f"{name}.yaml").read_text())
    )


@pytest.mark.parametrize("name", ["default", "strict", "off", "watch"])
def test_a_preset_of_the_divergence_section_on_the_command_line(here: Path, name: str) -> None:
    assert load("mine", [f"divergence={name}"]).config.divergence == preset(name)


def test_nothing_said_of_divergence_is_the_default_preset(here: Path) -> None:
    assert load("mine", []).config.divergence == preset("default") == DivergenceSettings()


def test_a_preset_in_the_users_file_with_a_value_of_its_own_and_another_on_the_command_line(here: Path) -> None:
    text = "defaults: [{divergence: strict}, _self_]\nworker: {script: a.py}\ndivergence: {margin: 20}\n"
    (here / "conf" / "strict.yaml").write_text(text)
    (here / "conf" / "above.yaml").write_text("defaults: [strict, _self_]\n")
    for name in ("strict", "above"):
        assert load(name, []).config.divergence == replace(preset("strict"), margin=20)
        assert load(name, ["divergence=watch"]).config.divergence == replace(preset("watch"), margin=20)


def test_a_preset_of_the_users_own(here: Path) -> None:
    (here / "conf" / "divergence").mkdir()
    (here / "conf" / "divergence" / "careful.yaml").write_text("margin: 44\nmetrics: {val_loss: {nonfinite: 3}}\n")
    found = load("mine", ["divergence=careful", "divergence.good_after=7"]).config.divergence
    assert (found.margin, found.good_after) == (44, 7)
    assert found.metrics == {"loss": MetricSettings(), "val_loss": MetricSettings(nonfinite=3)}


def test_the_command_line_has_the_last_word_on_what_the_file_says(here: Path) -> None:
    (here / "conf" / "on.yaml").write_text("worker: {script: a.py}\ndivergence: {enabled: true, margin: 3}\n")
    found = load("on", ["divergence=off"]).config.divergence
    assert (found.enabled, found.margin) == (False, 3)


def test_a_preset_named_off_has_to_be_quoted_in_yaml_and_the_error_says_so(here: Path) -> None:
    (here / "conf" / "quiet.yaml").write_text("defaults: [{divergence: off}]\nworker: {script: a.py}\n")
    assert "quote it: 'off'" in refused("quiet")
    (here / "conf" / "quiet.yaml").write_text("defaults: [{divergence: 'off'}]\nworker: {script: a.py}\n")
    assert not load("quiet", []).config.divergence.enabled


def test_a_metric_that_is_added_has_the_defaults_of_what_is_not_said(here: Path) -> None:
    added = load("mine", ["+divergence.metrics.val_loss.drift.held=3", "+divergence.metrics.acc.higher_is_worse=false"])
    metrics = added.config.divergence.metrics
    assert metrics == {
        "loss": MetricSettings(),
        "val_loss": MetricSettings(drift=DriftSettings(held=3)),
        "acc": MetricSettings(higher_is_worse=False),
    }
    assert yaml.safe_load(added.to_yaml())["divergence"]["metrics"]["val_loss"]["spike"]["threshold"] == 6.0
    slash = load("mine", ["+divergence.metrics={val/loss:{}}"]).config.divergence.metrics
    assert slash == {"loss": MetricSettings(), "val/loss": MetricSettings()}
    assert load("mine", ["~divergence.metrics.loss"]).config.divergence.metrics == {}


def test_adding_to_a_metric_that_the_file_has_keeps_what_the_file_says(here: Path) -> None:
    (here / "conf" / "val.yaml").write_text(
        "worker: {script: a.py}\ndivergence: {metrics: {val_loss: {drift: {held: 3}}}}\n"
    )
    for overrides in (["divergence.metrics.val_loss.nonfinite=2"], ["+divergence.metrics.val_loss.nonfinite=2"]):
        found = load("val", overrides).config.divergence.metrics["val_loss"]
        assert found == MetricSettings(nonfinite=2, drift=DriftSettings(held=3))


def test_how_a_run_is_watched_may_change_from_launch_to_launch(here: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(load("mine", []).to_yaml())
    changed = load("mine", ["divergence=strict", "+divergence.metrics.val_loss={}", "fingerprint.gradients=true"])
    assert check_drift(saved, changed, allow=False) == []
    assert changed.config.fingerprint == FingerprintSettings(batch=True, gradients=True, parameters=False)


# --- several nodes


def test_nodes_are_a_number_and_those_that_stand_by(here: Path) -> None:
    assert load("mine", []).config.node_settings is None
    config = load("mine", ["nodes=4", "worker.ranks=2"]).config
    assert config.node_settings == NodeSettings(4)
    assert config.world_size == 8
    assert not config.reshards
    config = load("mine", ["nodes=4:6", "group.least=2", "group.shortage=stop"]).config
    assert config.node_settings == NodeSettings(4, 2, least=2, shortage=Shortage.stop)
    assert config.reshards
    assert load("mine", ["nodes=1:2"]).config.node_settings == NodeSettings(1, 1)


@pytest.mark.parametrize("wrong", ["0", "3:2", "many", "4:", ":4", "true", "2.5", "-1", "4:5:6", "null"])
def test_what_is_no_number_of_nodes_is_refused_by_name(here: Path, wrong: str) -> None:
    assert "nodes" in refused("mine", f"nodes='{wrong}'" if ":" in wrong else f"nodes={wrong}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("group.least=3", "group.least must be from 1 to the 2 nodes"),
        ("group.silent_seconds=0", "group.silent_seconds"),
        ("group.lease_seconds=1", "group.lease_seconds"),
        ("group.address=here:port", "group.address"),
        ("group.wait_seconds=-1", "group.wait_seconds"),
        ("group.shortage=cry", "group.shortage"),
        ("group.lest=1", "did you mean group.least?"),
    ],
)
def test_a_group_that_cannot_be_is_refused_by_name(here: Path, override: str, said: str) -> None:
    assert said in refused("mine", "nodes=2", override)


def test_a_file_says_nodes_in_quotes_and_is_told_so_where_it_does_not(here: Path) -> None:
    mine = here / "conf" / "mine.yaml"
    mine.write_text("nodes: '4:5'\nworker: {script: train.py}\n")
    composed = load("mine", [])
    assert composed.config.node_settings == NodeSettings(4, 1)
    (here / "saved.yaml").write_text(composed.to_yaml())
    assert load("./saved.yaml", []).config.node_settings == NodeSettings(4, 1)
    mine.write_text("nodes: 4:5\nworker: {script: train.py}\n")
    assert "quote it: '4:5'" in refused("mine")
    mine.write_text("nodes: 245\nworker: {script: train.py}\n")
    assert load("mine", []).config.node_settings == NodeSettings(245)


def test_another_number_of_nodes_is_no_drift_for_the_snapshots_are_asked_about_ranks(here: Path) -> None:
    saved = here / "saved.yaml"
    saved.write_text(load("mine", ["nodes=2"]).to_yaml())
    assert check_drift(saved, load("mine", ["nodes=2:3", "group.wait_seconds=5"]), allow=False) == []
