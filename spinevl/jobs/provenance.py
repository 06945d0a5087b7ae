"""What a job's results were made with: config, data, the package's commit and versions."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import spinevl
from spinevl.build.user_modules import source_digest
from spinevl.jobs.status import read_status

PACKAGES = (
    *("spinevl", "torch", "transformers", "peft", "pytorch-lightning", "tokenizers"),
    *("safetensors", "numpy", "pillow", "hydra-core", "omegaconf"),
)
_GIT_SECONDS = 10


def provenance(config: Mapping[str, Any], *, out: Path) -> dict[str, Any]:
    """The identity of the job in a folder, its resolved config, the package's commit, versions."""
    status = read_status(out)
    return {
        "identity": status and status.identity,
        "config": config,
        **commit_of(Path(spinevl.__file__).parent),
        "versions": versions(),
    }


def code() -> str:
    """Version and commit of the package, and a digest of the modules of the user's own that are
    served, in one line, which tells whether they have changed.
    """
    served = source_digest()
    return f"{_package_code()}, your modules {served}" if served else _package_code()


@functools.cache
def _package_code() -> str:
    found = commit_of(Path(spinevl.__file__).parent)
    changed = "changed since" if found["git_dirty"] else None
    return " ".join(filter(None, (versions()["spinevl"], found["git_commit"], changed)))


def versions() -> dict[str, str | None]:
    """Python and the packages -> version; None where one is not installed."""
    result: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = None
    return result


def commit_of(package: Path) -> dict[str, Any]:
    """``git_commit`` of the repository that holds a package, and ``git_dirty``: whether the
    package differs from it. Both are None where no repository keeps the package's files, which a
    virtual environment inside a repository does not make it do.
    """
    commit, dirty = None, None
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(package, "rev-parse", "--verify", "HEAD")
        changed = _git(package, "status", "--porcelain", "--", ".")
        dirty = None if changed is None else bool(changed)
    return {"git_commit": commit, "git_dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints about a folder; None where it fails, hangs or is not there."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
