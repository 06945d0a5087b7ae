"""The commands of the README, run as they stand on a small study."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
SMALL = ["trainer.max_epochs=1", "trainer.dev_checks=1", "trainer.progress_bar=false"]
# What makes a command small: the page's own numbers are for a whole study.
SMALLER = {
    "run data=cervai": [*SMALL, "split.n_train=12"],
    "run data=phantom": [*SMALL, "split.n_train=12", "data.n_test=4"],
    "run -m": [*SMALL, "data.n_train=12", "data.n_dev=4", "data.n_test=4"],
    "run experiment=phantom_full": [*SMALL, "data.n_train=12", "data.n_dev=4", "data.n_test=4"],
    "build data=cervai": ["split.n_train=12"],
}


def commands() -> list[str]:
    """Every spinevl line of the page's bash blocks; what make runs is tested elsewhere."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("spinevl ")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the page names: a small phantom study in the CervAI layout."""
    folder = tmp_path_factory.mktemp("readme")
    numbers = ["data.n_train=12", "data.n_dev=4", "data.n_test=4"]
    run(folder, "run", *numbers, *SMALL, "hydra.run.dir=outputs/demo")
    (cohort,) = (folder / "cache/phantom").iterdir()
    for name, file in (
        ("labels.json", "train.json"),
        ("boxes.json", "boxes.json"),
        ("test_template.json", "template.json"),
    ):
        shutil.copy(cohort / name, folder / file)
    shutil.copytree(cohort / "images", folder / "images")
    tasks = ("qd", "sl", "zjppt", "zyzg", "positioning")
    prompts = dict.fromkeys(tasks, "[image]A question about [object]? [options]")
    (folder / "templates.json").write_text(json.dumps(prompts))
    return folder


def run(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spinevl", *arguments, f"cache_dir={folder}/cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"spinevl {' '.join(arguments)}\n{done.stderr}"


def test_the_page_has_commands() -> None:
    assert len(commands()) >= 7
    unused = [start for start in SMALLER if not any(f" {start}" in line for line in commands())]
    assert not unused


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_page(study: Path, command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    text = " ".join(arguments)
    smaller = next((more for start, more in SMALLER.items() if text.startswith(start)), [])
    if "answers=outputs/predict/answers.json" in arguments:  # after the line above it on the page
        assert (study / "outputs/predict/answers.json").is_file()
    run(study, *arguments, *smaller)


def test_the_python_of_the_page(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(study)
    said: list[tuple[object, ...]] = []
    exec(block, {"print": lambda *values: said.append(values)})
    assert len(said) == 4 * 18
