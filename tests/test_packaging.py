"""The built wheel carries conf/ and works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_a_wheel_runs_from_another_directory(tmp_path: Path) -> None:
    wheels, site, elsewhere = tmp_path / "wheels", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", wheels, REPOSITORY], check=True, cwd=elsewhere)
    (wheel,) = wheels.glob("spinevl-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    names = {str(file.relative_to(site)) for file in site.rglob("*.yaml")}
    tracked = {f"spinevl/conf/{f.relative_to(REPOSITORY / 'conf')}" for f in configs()}
    assert names == tracked
    assert (site / "spinevl" / "py.typed").is_file()

    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import spinevl.config.conf_dir as c; print(c.CONF_DIR)"
    for command, expected in (
        ([sys.executable, "-c", code], str(site / "spinevl" / "conf")),
        ([sys.executable, "-m", "spinevl", "run", "--cfg", "job"], "spinevl.models.encoder.tiny"),
    ):
        result = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        )
        assert expected in result.stdout


def configs() -> list[Path]:
    return sorted((REPOSITORY / "conf").rglob("*.yaml"))


def pins(name: str) -> dict[str, str]:
    lines = (REPOSITORY / name).read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_playground_has_the_versions_of_all_others_but_two() -> None:
    own, all_ = pins("constraints-playground.txt"), pins("constraints.txt")
    assert {name for name in own if all_.get(name, own[name]) != own[name]} == {"pillow", "tomlkit"}
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    assert f'playground = ["gradio=={own["gradio"]}"]' in project


def test_the_repository_holds_no_links() -> None:
    if not (git := shutil.which("git")):
        pytest.skip("needs git")
    listing = [git, "ls-files", "--stage"]
    told = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True)
    if told.returncode:
        pytest.skip("not a checkout")
    lines = told.stdout.splitlines()
    assert any(line.endswith("\tpyproject.toml") for line in lines)
    # a link leads to a folder of one machine, and where that is missing, nothing can be made there
    assert [line for line in lines if line.startswith("120000")] == []
