"""A manifest names the code and the packages that made the results."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from spinevl.build.trust import NOTHING, Trust
from spinevl.build.user_modules import serve, source_digest
from spinevl.jobs.provenance import code, commit_of, provenance


def git(folder: Path, *arguments: str) -> str:
    words = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_versions_of_python_and_of_what_computes() -> None:
    told = provenance({}, out=Path())["versions"]
    assert told["python"] == platform.python_version()
    for name in ("spinevl", "torch", "transformers", "peft", "numpy"):
        assert told[name] == version(name)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_that_of_the_package_not_of_the_folder_around_it(tmp_path: Path) -> None:
    package = tmp_path / "spinevl"
    installed = tmp_path / ".venv/site-packages/spinevl"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    nothing = {"git_commit": None, "git_dirty": None}
    assert commit_of(package) == nothing
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("beside the package")
    assert commit_of(package) == {"git_commit": commit, "git_dirty": False}
    assert commit_of(installed) == nothing
    (package / "new.py").write_text("")
    assert commit_of(package) == {"git_commit": commit, "git_dirty": True}


def test_without_git_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(Path(__file__).parent) == {"git_commit": None, "git_dirty": None}


def test_the_code_of_a_job_has_a_digest_of_the_users_own_modules(tmp_path: Path) -> None:
    (tmp_path / "my_layers.py").write_text("x = 1\n")
    before = code()
    serve(Trust(("my_layers",)), [tmp_path])
    assert code() == f"{before}, your modules {source_digest()}"
    serve(NOTHING, [])
    assert code() == before
