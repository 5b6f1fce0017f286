"""A configuration as others may see it."""

from __future__ import annotations

from pathlib import Path

from resilient.protocol.paths import RunPaths
from resilient.trackers.redacted import HIDDEN, redacted, shown_config


def test_what_may_be_a_secret_is_hidden_and_the_rest_is_shown() -> None:
    tree = {
        "worker": {
            "env": {"WANDB_API_KEY": "S", "MODE": "S"},
            "args": ["--epochs", "3", "--api-key", "S", "--hf-token=S", "--fast", "--max-tokens", "5"],
            "script": "train.py",
        },
        "remote": {"url": "ftp://me:S@host/x", "options": {"profile": "S"}},
        "trackers": {"webhook": {"url": "S"}},
        "train": {
            "lr": 0.1,
            "db_password": "S",
            "key": "S",
            "monkeys": 2,
            "max_tokens": 5,
            "deep": {"secret": {"a": "S"}},
        },
    }
    shown = redacted(tree)
    assert "S" not in str(shown)
    assert shown["worker"]["args"] == [
        "--epochs",
        "3",
        "--api-key",
        HIDDEN,
        f"--hf-token={HIDDEN}",
        "--fast",
        "--max-tokens",
        "5",
    ]
    assert shown["train"]["lr"] == 0.1
    assert (shown["train"]["monkeys"], shown["train"]["max_tokens"]) == (2, 5)
    assert shown["worker"]["env"].keys() == {"WANDB_API_KEY", "MODE"}
    assert "trackers" not in shown


def test_it_is_read_from_the_run_directory(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert shown_config(paths) == {}
    paths.config.write_text("train: {lr: 0.1, token: S}\n")
    assert shown_config(paths) == {"train": {"lr": 0.1, "token": HIDDEN}}
    paths.config.write_text("{")
    assert shown_config(paths) == {}
