"""``resilient snapshots …`` on a run with a remote tier: where things lie, and getting them out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from resilient.cli import main
from resilient.drill.faults import flip_bit
from resilient.errors import ExitCode
from resilient.protocol import names
from resilient.protocol.paths import RunPaths
from resilient.protocol.remote_settings import RemoteSettings
from resilient.snapshot import catalog
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.remote import RemoteTier, remote_name
from resilient.snapshot.upload import upload
from tests.buckets import bare, make_snapshot


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "remote"
    place.mkdir()
    return place


@pytest.fixture
def paths(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """The run ``demo``: step 10 lies remotely, 20 here and there, 30 here."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths.of("runs", "demo")
    paths.create()
    for step, loss in ((10, 1.0), (20, 3.0), (30, 2.0)):
        make_snapshot(paths.snapshots, step, metrics={"loss": loss})
        if step < 30:
            upload(bare(RemoteSettings(url=str(place))), paths.snapshot(step))
    shutil.rmtree(paths.snapshot(10))
    paths.config.write_text(
        f"retention: {{last: 3, best_metric: loss}}\nremote: {{url: {place}, retention: {{last: 1}}, attempts: 1}}\n"
    )
    return paths


def snapshots(*arguments: str) -> int:
    return main(["snapshots", *arguments])


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert snapshots(*arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def manifest_of(place: Path, step: int) -> Manifest:
    found = {item.step: item.manifest for item in RemoteTier(bare(RemoteSettings(url=str(place)))).items()}[step]
    assert found is not None
    return found


def test_list_says_where_each_lies(paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = parsed(capsys, "list", "run=demo")["snapshots"]
    assert [(row["step"], row["tiers"]) for row in rows] == [
        (10, ["remote"]),
        (20, ["local", "remote"]),
        (30, ["local"]),
    ]
    assert rows[0]["path"] == f"{place}/demo/{remote_name(10, rows[0]['identity'])}"
    assert rows[1]["remote"]["kept"] == ["newest", "last"]
    assert rows[2]["remote"] is None
    assert snapshots("list", "run=demo") == 0
    assert "local+remote" in capsys.readouterr().out


def test_list_local_does_not_ask_the_network(paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place)
    assert [row["step"] for row in parsed(capsys, "list", "run=demo", "--local")["snapshots"]] == [20, 30]
    assert not capsys.readouterr().err


def test_list_shows_what_is_here_when_the_remote_tier_is_away(
    paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place)
    assert snapshots("list", "run=demo", "--json") == 0
    captured = capsys.readouterr()
    assert [row["step"] for row in json.loads(captured.out)["snapshots"]] == [20, 30]
    assert "refuses" in json.loads(captured.out)["remote_problem"]
    assert "WARNING: only what is on this machine is shown" in captured.err
    assert snapshots("verify", "run=demo", "tier=remote") == ExitCode.REMOTE_UNAVAILABLE


def test_a_machine_that_knows_nothing_of_the_run_can_look_and_export(
    paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("runs")
    assert snapshots("list", "run=demo") == ExitCode.NOT_FOUND
    rows = parsed(capsys, "list", "run=demo", f"remote.url={place}")["snapshots"]
    assert [(row["step"], row["tiers"]) for row in rows] == [(10, ["remote"]), (20, ["remote"])]
    assert snapshots("export", "run=demo", f"remote.url={place}", "step=10", "to=out") == 0
    assert catalog.verify(Path("out")).step == 10
    assert not Path("runs").exists()


def test_show_knows_both_tiers(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["step"] for row in parsed(capsys, "show", "run=demo", "step=best")["snapshots"]] == [10]
    assert snapshots("show", "run=demo", "step=20") == 0
    assert "local+remote" in capsys.readouterr().out


def test_verify_of_the_remote_tier_names_the_place_and_marks_it(
    paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert snapshots("verify", "run=demo", "tier=remote") == 0
    name = remote_name(20, manifest_of(place, 20).identity)
    flip_bit(place / "demo" / name / names.image_name(0), offset=100)
    results = parsed(capsys, "verify", "run=demo", "tier=remote", "--quarantine", code=67)["snapshots"]
    assert [(result["step"], result["ok"]) for result in results] == [(10, True), (20, False)]
    assert f"{name}/{names.image_name(0)}: checksum mismatch in bytes 0 to 3000" in results[1]["problem"]
    rows = parsed(capsys, "list", "run=demo")["snapshots"]
    assert rows[1]["remote"]["state"] == "corrupt"
    assert snapshots("verify", "run=demo") == 0, "the copy on this machine is another one"


def test_prune_of_the_remote_tier_goes_by_its_own_rules(
    paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parsed(capsys, "prune", "run=demo", "tier=remote", "--dry-run")["removed"] == [10]
    assert manifest_of(place, 10)
    assert parsed(capsys, "prune", "run=demo", "tier=remote", "remote.retention.last=2")["removed"] == []
    assert parsed(capsys, "prune", "run=demo", "tier=remote")["removed"] == [10]
    assert catalog.committed_steps(paths.snapshots) == (20, 30)


def test_export_takes_the_copy_that_verifies(paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_bit(paths.snapshot(20) / names.image_name(0), offset=9)
    body = parsed(capsys, "export", "run=demo", "step=20", "to=out")
    assert (body["step"], body["bytes"]) == (20, 3000)
    assert body["source"] == remote_name(20, manifest_of(place, 20).identity)
    assert catalog.verify(Path("out")).identity == body["identity"]
    assert snapshots("export", "run=demo", "step=20", "to=out2", "tier=local") == ExitCode.NO_SNAPSHOT
    assert not Path("out2").exists()


def test_export_prefers_what_is_near(paths: RunPaths, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place)
    assert parsed(capsys, "export", "run=demo", "step=20", "to=out")["source"] == str(paths.snapshot(20))
    assert parsed(capsys, "export", "run=demo", "to=latest")["step"] == 30


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("export", "run=demo"), ExitCode.USAGE, "to=PATH is needed"),
        (("export", "run=demo", "to=x", "object=model"), ExitCode.USAGE, "x.safetensors"),
        (("export", "run=demo", "to=runs"), ExitCode.NOT_WRITABLE, "--force"),
        (("export", "run=demo", "to=x", "step=50"), ExitCode.NOT_FOUND, "10, 20, 30"),
        (("verify", "run=demo", "tier=moon"), ExitCode.USAGE, "tier=local or tier=remote"),
        (("verify", "run=demo", "tier=remote", "remote.url=''"), ExitCode.USAGE, "has no remote tier"),
        (("list", "run=demo", "remote.url=s5://x"), ExitCode.CONFIG, "s5://"),
        (("list", "run=demo", "remote.ulr=/x"), ExitCode.CONFIG, "ulr"),
    ],
)
def test_mistakes_are_named_with_their_exit_code(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: ExitCode, text: str
) -> None:
    assert snapshots(*arguments) == code
    assert text in capsys.readouterr().err
