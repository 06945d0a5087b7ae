"""The built wheel carries conf/ and works from any folder."""

from __future__ import annotations

import os
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
