"""What a job's results were made with: config, data, commit and versions of packages."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from spinevl.jobs.identity import identity

PACKAGES = ("spinevl", "numpy", "pillow", "hydra-core", "omegaconf")


def provenance(config: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The job's identity, its resolved config, the working directory's commit and versions."""
    return {
        "identity": identity(config, fingerprint),
        "config": config,
        "git_commit": _git_commit(),
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Package -> version; None where it is not installed."""
    result: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = None
    return result


def _git_commit() -> str | None:
    """The commit of the working directory; None outside a repository or without git."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
