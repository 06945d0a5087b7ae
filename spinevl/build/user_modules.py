"""Modules that lie in a user's folders, importable only where the user trusts their names.

A folder on ``sys.path`` would answer every import that nobody else answers: also those of optional
packages, which libraries try to import (``flash_attn``, ``wandb``). So the folders are not put
there. A finder behind all others serves the trusted names from them, and no other name.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from spinevl.build.trust import Trust
from spinevl.io.hashing import sha256

# Optional packages that our dependencies import where they are there, without naming them all.
_OPTIONAL = {"apex", "bitsandbytes", "flash_attn", "flash_attn_3", "kernels", "triton", "xformers"}
_ASKING = ("spinevl", "torch", "transformers", "peft", "pytorch-lightning", "accelerate")


class UserModules(MetaPathFinder):
    """Finds top-level modules of some names in some folders.

    Args:
        names: what the user trusts.
        folders: where to look, in order.
    """

    def __init__(self, names: frozenset[str], folders: Sequence[str]) -> None:
        self.names = names
        self.folders = list(folders)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec; None for any other name. Submodules are found by their package."""
        if path is not None or fullname not in self.names:
            return None
        return PathFinder.find_spec(fullname, self.folders)

    def __reduce__(self) -> tuple[Any, ...]:
        """In a process that was spawned, it finds modules as soon as it is unpickled."""
        return _installed, (self.names, self.folders)


class WithUserModules:
    """A function whose pickle brings along how the user's modules are found.

    A spawned process has no finder, and objects of the user's own classes could not be unpickled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickled in this order: the finder is there before the function's objects are
        return _restored, (_installed_finder(), self.function)


def serve(trust: Trust, folders: Sequence[str | Path]) -> None:
    """Make the trusted names importable from some folders, in place of what was served before.

    The finder stands behind all others, so that it is asked only for what is not installed; and
    names of optional packages of ours and our dependencies are never served.
    """
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, UserModules)]
    names = {name.partition(".")[0] for name in trust.targets}
    if names and folders:
        names -= optional_packages()
        _installed(frozenset(names), [str(one) for one in folders])


def served_folders() -> list[str]:
    """The folders in which the user's modules are looked for, for a process that needs them too."""
    finder = _installed_finder()
    return finder.folders if finder else []


def source_digest() -> str | None:
    """A digest of the Python files of the modules that are served; None where there are none."""
    if (finder := _installed_finder()) is None:
        return None
    files: list[Path] = []
    for name in sorted(finder.names):
        if (spec := finder.find_spec(name)) is None:
            continue
        if spec.submodule_search_locations is None:
            files += [Path(spec.origin)] if spec.origin else []
        else:
            for folder in spec.submodule_search_locations:
                files += sorted(Path(folder).rglob("*.py"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:8]


def optional_packages() -> set[str]:
    """Names of packages that we or our dependencies would use where they are installed."""
    found = set(_OPTIONAL)
    for distribution in _ASKING:
        try:
            required = metadata.requires(distribution) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in required:
            if match := re.match(r"[\w.-]+", requirement):
                found.add(match[0].replace("-", "_").lower())
    return found


def _installed(names: frozenset[str], folders: Sequence[str]) -> UserModules:
    finder = UserModules(names, folders)
    sys.meta_path.append(finder)
    return finder


def _installed_finder() -> UserModules | None:
    return next((one for one in sys.meta_path if isinstance(one, UserModules)), None)


def _restored(_: UserModules | None, function: Callable[..., Any]) -> WithUserModules:
    return WithUserModules(function)
