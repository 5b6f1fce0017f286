"""The divergence detectors over a curve again: which alarms would have come with other settings."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from resilient.cli import main
from resilient.errors import ConfigurationError, CurveUnreadable, ExitCode, UsageError
from resilient.policy.divergence import Alarm, Divergence, DivergenceSettings
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths
from resilient.report.curves import Curve, file_curve, run_curve
from resilient.report.tuning import Trial, trials, try_out, unwatched, watching

AS_IT_IS = Trial((), DivergenceSettings())


def noisy(steps: Iterable[int], *, bump: int = 0, height: float = 0.0, width: int = 4) -> dict[int, float]:
    """A loss of about 2 with a scale of about 0.1; ``height`` higher for some steps from ``bump`` on."""
    rng = random.Random(1)
    return {
        step: 2.0 + rng.uniform(-0.15, 0.15) + (height if bump and bump <= step < bump + width else 0.0)
        for step in steps
    }


def curve_of(*rounds: dict[int, float], name: str = "loss") -> Curve:
    return Curve(
        tuple(
            Entry(number, 0, Metrics(step, 0.0, {name: value}))
            for number, losses in enumerate(rounds)
            for step, value in losses.items()
        )
    )


def test_a_lower_threshold_shows_the_alarm_that_a_higher_one_does_not() -> None:
    curve = curve_of(noisy(range(1, 400), bump=300, height=0.6))
    tried = trials({}, ["divergence.metrics.loss.spike.threshold=4,30"], {})
    assert [one.changes for one in tried][1:] == [
        ("divergence.metrics.loss.spike.threshold=4",),
        ("divergence.metrics.loss.spike.threshold=30",),
    ]
    low, high = (try_out(curve, one) for one in tried[1:])
    assert (low.alarms, low.divergences, high.alarms) == (1, 0, 0)
    assert [finding.alarm_step for _, finding in low.findings if isinstance(finding, Alarm)] == [302]


def test_a_threshold_below_that_of_a_high_gradient_norm_holds_for_both() -> None:
    losses = noisy(range(1, 400), bump=300, height=0.45)
    entries = [
        Entry(0, 0, Metrics(step, 0.0, {"loss": loss, "grad_norm": 1.0 + 99 * (step >= 300)}))
        for step, loss in losses.items()
    ]
    tried = trials({"metrics": {"loss": {"spike": {"hits": 1}}}}, ["divergence.metrics.loss.spike.threshold=3,9"], {})
    low, high = (try_out(Curve(tuple(entries)), one) for one in tried[1:])
    assert low.findings
    assert "more than 3 scales" in low.findings[0][1].evidence[0]
    assert all("more than 4 scales" in one.evidence[0] for _, one in high.findings if isinstance(one, Alarm))


def test_nothing_is_acted_on_so_the_curve_is_read_to_its_end() -> None:
    curve = curve_of(noisy(range(1, 400), bump=200, height=3.0, width=100))
    found = try_out(curve, Trial((), DivergenceSettings(enabled=False)))
    assert found.divergences == 1
    assert [finding.what for _, finding in found.findings] == ["alarm", "divergence", "recovered"]


@pytest.mark.parametrize("length", [400, 4200])  # within what the sensor remembers, and beyond
def test_a_round_that_goes_on_from_an_earlier_step_is_judged_with_the_state_of_then(length: int) -> None:
    again = 100
    first = noisy(range(1, length), bump=length - 90, height=3.0, width=1000)
    second = {step: value for step, value in noisy(range(1, length)).items() if step > again}
    outcome = try_out(curve_of(first, second), AS_IT_IS)
    assert {number for number, finding in outcome.findings if isinstance(finding, Divergence)} == {0}
    assert not [finding for number, finding in outcome.findings if number == 1]
    spoilt = {**second, again + 1: float("nan")}
    (last,) = [one for number, one in try_out(curve_of(first, spoilt), AS_IT_IS).findings if number and one.step == 101]
    assert isinstance(last, Divergence)


def test_a_run_is_read_from_its_logs_of_metrics(tmp_path: Path) -> None:
    paths = RunPaths.of(tmp_path, "mine")
    paths.create()
    log = MetricsLog(paths.metrics)
    log.write(
        Entry(0, rank, Metrics(step, 1.0, {"loss": 1.0, "resilient.batch": 7.0})) for step in (1, 2) for rank in (0, 1)
    )
    log.write([Entry(1, 0, Metrics(2, 1.0, {"loss": float("nan")}))])
    log.close()
    curve = run_curve(paths)
    assert [(entry.round, entry.metrics.step) for entry in curve.entries] == [(0, 1), (0, 2), (1, 2)]
    assert curve.names == ["loss"]
    assert try_out(curve, AS_IT_IS).divergences == 1


@pytest.mark.parametrize(
    ("text", "steps", "names"),
    [
        ("2.5\n2.4\nnan\n", [1, 2, 3], ["loss"]),
        ('{"step": 10, "loss": 2.5, "note": "x"}\n{"step": 20, "loss": "NaN"}\n', [10, 20], ["loss"]),
        ('{"loss": 1}\n{"lr": 2}\n{}\n', [1, 2], ["loss", "lr"]),
        ("Wall time,Step,Value\n1.5,3,2.0\n1.6,4,inf\n", [3, 4], ["Value"]),
        ("step\ttrain_loss\n1\t2\n2\t\n3\t4\n", [1, 3], ["train_loss"]),
    ],
)
def test_files_of_others_are_read_as_they_are(tmp_path: Path, text: str, steps: list[int], names: list[str]) -> None:
    path = tmp_path / "losses"
    path.write_text(text)
    curve = file_curve(path)
    assert [entry.metrics.step for entry in curve.entries] == steps
    assert curve.names == names


@pytest.mark.parametrize("text", ["", "\n", "words\nmore words\n", "{}\n", "{not json\n"])
def test_a_file_without_numbers_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "losses"
    path.write_text(text)
    with pytest.raises(CurveUnreadable, match="holds no numbers"):
        file_curve(path)


def test_lines_that_are_cut_short_are_told_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "losses"
    path.write_text('{"loss": 1}\n{"lo\n[1]\n{"loss": 2}\n')
    curve = file_curve(path)
    assert len(curve.entries) == 2
    assert curve.problems == ("line 2 is no JSON object", "line 3 is no JSON object")


def test_a_step_that_goes_back_in_a_file_is_a_new_round(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3, 2, 3)))
    assert [entry.round for entry in file_curve(path).entries] == [0, 0, 0, 1, 1]


def test_a_loss_of_another_name_is_found_where_it_is_the_only_one() -> None:
    curve = curve_of({1: 1.0}, name="train_loss")
    assert watching({}, curve) == {"metrics": {"train_loss": {}}}
    assert watching({"metrics": {"loss": {}}}, curve) == {"metrics": {"loss": {}}}
    assert unwatched(curve, DivergenceSettings()) == "nothing that is watched (loss) is there, but train_loss"


def test_changes_are_checked_before_anything_is_read_with_them() -> None:
    presets = {"strict": {"warmup_steps": 7}}
    assert trials({}, ["divergence=strict"], presets)[1].settings.warmup_steps == 7
    assert trials({"margin": 3}, [], presets)[0].settings.margin == 3
    (_, with_list) = trials({}, ["divergence.metrics={reward: {higher_is_worse: false}, loss: {}}"], presets)
    assert set(with_list.settings.metrics) == {"reward", "loss"}
    with pytest.raises(ConfigurationError, match=r"divergence\.margn"):
        trials({}, ["divergence.margn=3"], presets)
    with pytest.raises(ConfigurationError, match="no such preset"):
        trials({}, ["divergence=strickt"], presets)
    with pytest.raises(ConfigurationError, match="nothing to do with the detectors"):
        trials({}, ["restarts.crash_loop=3"], presets)
    with pytest.raises(UsageError, match="has no value"):
        trials({}, ["divergence.margin"], presets)


def test_the_command_shows_each_of_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "losses.csv"
    losses = {**noisy(range(1, 400), bump=300, height=1.2), 400: float("nan")}
    path.write_text("step,loss\n" + "".join(f"{step},{value}\n" for step, value in losses.items()))
    command = ["replay", str(path), "--metrics", "--set", "divergence.metrics.loss.spike.threshold=30"]
    command += ["--set", "divergence.metrics.loss.drift.enabled=false"]
    assert main([*command, "--set", "divergence.metrics.loss.nonfinite=0"]) == ExitCode.FINISHED
    told = capsys.readouterr().out
    assert "400 reports, steps 1 to 400, of loss" in told
    assert "with the settings as they are: 1 alarm, 1 divergence" in told
    assert "step 302: ALARM, spike of loss since step 300" in told
    assert "drift.enabled=false, divergence.metrics.loss.nonfinite=0: nothing is found" in told
    assert main([*command, "--json"]) == ExitCode.FINISHED
    body = json.loads(capsys.readouterr().out)
    assert [(one["alarms"], one["divergences"]) for one in body["settings"]] == [(1, 1), (0, 1)]
    assert main(["replay", "nobody", "--metrics", f"dir={tmp_path}"]) == ExitCode.NOT_FOUND
