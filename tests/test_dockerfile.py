"""The Dockerfile: its steps are the README's, and what a linter would object to is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}


def steps() -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, re.sub(r" +", " ", rest)) for name, _, rest in (x.partition(" ") for x in lines)]


def arguments(name: str) -> list[str]:
    return [rest for one, rest in steps() if one == name]


def test_it_installs_as_the_readme_says() -> None:
    (line,) = [one for one in arguments("RUN") if one.startswith("pip ")]
    extras = dict(one.split("=", 1) for one in arguments("ARG"))["EXTRAS"]
    told = line.replace("${EXTRAS}", extras).replace('"', "'").replace(" --no-cache-dir", "")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"^pip install .*constraint.*$", readme, re.MULTILINE) == [told]


def test_every_instruction_is_one_and_the_base_has_a_version() -> None:
    assert {name for name, _ in steps()} <= INSTRUCTIONS
    (base,) = arguments("FROM")
    assert re.fullmatch(r"nvidia/cuda:\$\{CUDA\}-devel-ubuntu[\d.]+", base)
    assert re.fullmatch(
        r"\d+\.\d+\.\d+", dict(one.split("=", 1) for one in arguments("ARG"))["CUDA"]
    )
    assert steps()[0][0] == "ARG"


def test_it_leaves_no_caches_and_starts_the_command() -> None:
    for line in arguments("RUN"):
        if "apt-get install" in line:
            assert line.startswith("apt-get update && ")
            assert "--no-install-recommends" in line
            assert "rm -rf /var/lib/apt/lists/*" in line
        if "pip install" in line:
            assert "--no-cache-dir" in line
    assert arguments("ENTRYPOINT") == ['["spinevl"]']
    assert all(folder.startswith("/") for folder in arguments("WORKDIR"))


def test_what_is_built_here_stays_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv*", "outputs", "multirun"} <= set(ignored)
    for needed in ("pyproject.toml", "constraints.txt", "README.md", "spinevl", "conf"):
        assert needed not in ignored
