"""What is trained, as it is named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient import cli
from resilient.config import check_drift, expand_sweep, load
from resilient.entry import run_id, split_list
from resilient.errors import ConfigurationDrift, ConfigurationError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[]", []),
        ("[--epochs,3]", ["--epochs", "3"]),
        (
            "[--lr, 1e-3, -1, 007, 0.10, true, null, 1_000]",
            ["--lr", "1e-3", "-1", "007", "0.10", "true", "null", "1_000"],
        ),
        ("[--flag=value,key=value]", ["--flag=value", "key=value"]),
        ("['a, b',\"it's\"]", ["a, b", "it's"]),
        (r"[a\, b]", ["a, b"]),
        ("[--sizes,[1,2],{x: 1, y: 2}]", ["--sizes", "[1,2]", "{x: 1, y: 2}"]),
        ("[two words,~/x,$HOME,*.pt]", ["two words", "~/x", "$HOME", "*.pt"]),
        ("['',a,]", ["", "a"]),
        ("[don't]", ["don't"]),
    ],
)
def test_items_are_taken_word_for_word(text: str, items: list[str]) -> None:
    if text.endswith(",]"):
        items = [*items, ""]
    assert split_list("script_args", text) == items


@pytest.mark.parametrize("text", ["--epochs", "3", "", "['a]"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="script_args"):
        split_list("script_args", text)


def test_arguments_after_the_dashes_are_nobodys_but_the_scripts() -> None:
    words = ["train", "conf=script", "script=a.py", "--cfg", "job", "--", "--cfg", "x=${y}", "-m", "--", "{latest}"]
    options = cli._parse(words)
    assert options.overrides == ["conf=script", "script=a.py"]
    assert options.arguments == ["--cfg", "x=${y}", "-m", "--", "{latest}"]
    composed = load("script", ["script=a.py", "script_args=[--a,1]"], arguments=options.arguments)
    assert composed.config.worker.args == ["--a", "1", *options.arguments]


def test_arguments_without_the_dashes_are_refused_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._parse(["train", "conf=script", "script=a.py", "--epochs", "3"])
    assert "go after --" in capsys.readouterr().err


def test_saved_configuration_is_read_back_as_it_was(here: Path) -> None:
    arguments = ["${x}", "${", r"\${y}", "a: b", "-1"]
    composed = load("script", ["script=a.py"], arguments=arguments)
    (here / "saved.yaml").write_text(composed.to_yaml())
    assert check_drift(here / "saved.yaml", composed, allow=False) == []
    with pytest.raises(ConfigurationDrift, match="args"):
        check_drift(here / "saved.yaml", load("script", ["script=a.py"], arguments=["-2"]), allow=False)


def test_script_and_module_end_up_in_the_worker() -> None:
    worker = load("script", ["script=sub dir/(a)=1.py"]).config.worker
    assert (worker.script, worker.module, worker.unmodified) == ("sub dir/(a)=1.py", "", True)
    composed = load("script", ["module=pkg.train"])
    assert (composed.config.worker.module, composed.config.run.id) == ("pkg.train", "pkg.train")
    assert "script_args" not in composed.tree


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "nothing to train"),
        (["script=a.py", "module=b"], "both script=a.py and module=b"),
        (["scirpt=a.py"], "did you mean script?"),
        (["script=a.py", "worker.script=b.py"], "a.py is named, and in the section worker b.py"),
        (["script=a.py", "script_args=[1]", "worker.args=[2]"], "both script_args and worker.args"),
        (["script=a.py", "worker.exit_codes={300: stop}"], "300"),
        (["script=a.py", "worker.exit_codes.3=halt"], "finished, restart, stop, requeue"),
        (["script=a.py", "worker.checkpoints=out/*.pt"], "worker.resume_args"),
        (["script=a.py", "worker.resume_args=[--resume]"], "worker.checkpoints"),
        (["script=a.py", "worker.metrics.loss=(("], "worker.metrics.loss"),
        (["script=a.py", "worker.metrics.step=([0-9]+)"], "worker.metrics.step"),
        (["script=a.py", "worker.step_pattern=step"], "has no group"),
        (["script=a.py", "worker.stop_signal=SIGKILL"], "SIGTERM, SIGINT"),
    ],
)
def test_mistakes_are_named(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("script", overrides)
    assert said in str(caught.value)


def test_patterns_and_globs_need_no_quotes_of_hydras() -> None:
    overrides = [
        "script=a.py",
        "worker.checkpoints=[out/**/c[0-9]*.pt,last.pt]",
        "worker.resume_args=[--resume={latest}]",
        r"worker.metrics.acc=Acc@1 +([0-9.]+)",
        "worker.exit_codes={3: finished, 75: requeue}",
    ]
    worker = load("script", overrides).config.worker
    assert worker.checkpoint_globs == ("out/**/c[0-9]*.pt", "last.pt")
    assert worker.resume_args == ["--resume={latest}"]
    assert worker.metrics["acc"] == "Acc@1 +([0-9.]+)"
    assert "loss" in worker.metrics
    assert worker.exit_codes == {3: "finished", 75: "requeue"}


def test_arguments_stay_the_same_over_a_sweep() -> None:
    jobs = list(expand_sweep(["restarts.crash_loop=2,3", "script_args=[--a=1]", "script=a.py"]))
    assert [load("script", job, suffix=name).config.worker.args for name, job in jobs] == [["--a=1"]] * 2


def test_a_run_is_named_after_its_script(here: Path) -> None:
    def name(script: str) -> str:
        worker: dict[str, Any] = {"script": script, "module": ""}
        return run_id(worker, here)

    assert name("train.py") == name("./train.py") == name(str(here / "train.py")) == "train"
    assert name("gan/train.py") == "gan-train"
    assert name("../a/train.py") != name("../b/train.py")
    assert name("../a/train.py").startswith("a-train-")
    assert name("a b/ü.py") == "a-b"
    assert load("script", ["script=gan/train.py"]).config.run.id == "gan-train"
    assert load("script", ["script=gan/train.py", "run.id=x"]).config.run.id == "x"
