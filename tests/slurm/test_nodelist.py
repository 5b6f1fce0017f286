from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.slurm.nodelist import expand, join


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3,7]", ("n1", "n2", "n3", "n7")),
        ("n[1-2],gpu-[01-03]", ("n1", "n2", "gpu-01", "gpu-02", "gpu-03")),
        ("rack[1-2]node[08-10]", tuple(f"rack{rack}node{node}" for rack in (1, 2) for node in ("08", "09", "10"))),
        ("a[9-11]", ("a9", "a10", "a11")),
        ("login,n[1]x", ("login", "n1x")),
        ("node-a.site.org", ("node-a.site.org",)),
    ],
)
def test_lists_as_slurm_writes_them(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text",
    ["n[1-3", "n1-3]", "n[[1]]", "n[]", "n[a-b]", "n[3-1]", "n1,,n2", "n;rm", "n[1-99999999]", "n[0-300]m[0-300]"],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        expand(text)


@given(st.lists(st.from_regex(r"[a-z]{1,5}-?[0-9]{0,3}", fullmatch=True), max_size=20, unique=True))
def test_a_list_that_we_write_reads_as_it_was(names: list[str]) -> None:
    assert expand(join([*names, *names])) == tuple(names)


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="needs SLURM's scontrol: apt-get install slurm-client")
@pytest.mark.parametrize("text", ["n[1-3,7]", "gpu-[01-12],login", "r[1-2]n[08-10]", "a[9-11]"])
def test_scontrol_reads_them_in_the_same_way(text: str, tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\n")  # it wants one, and needs none
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    command = ["scontrol", "show", "hostnames", text]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert expand(text) == tuple(shown.split())
