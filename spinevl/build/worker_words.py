"""What a job tells its worker processes: its folder, and what the user trusts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from spinevl.build.trust import Trust, says_trust
from spinevl.build.user_modules import serve, served_folders
from spinevl.schema.errors import UserError


def worker_words(out: Path, trust: Trust) -> list[str]:
    """The words for a worker: ``OUT``, ``--modules-in=DIR``..., ``trusted_targets=[...]``."""
    folders = [f"--modules-in={folder}" for folder in served_folders()]
    return [str(out), *folders, *trust.to_words()]


def read_worker_words(
    words: Sequence[str], *, program: str = "a worker of spinevl"
) -> tuple[Path, Trust]:
    """What ``worker_words`` told; from now on the user's modules are found.

    Args:
        words: the worker's. People who start one give ``--config-dir DIR`` instead of
            ``--modules-in``, as they gave it to the command that wrote what the worker reads.
        program: how it is called, for ``--help``.

    Raises:
        UserError: a word that says nothing of trust.
    """
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("out", type=Path, help="the job's folder")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--modules-in", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("trusted", nargs="*", metavar="trusted_targets=[...]")
    asked = parser.parse_intermixed_args(words)
    if others := [word for word in asked.trusted if not says_trust(word)]:
        raise UserError(f"{others[0]}: a worker takes its keys from the files in {asked.out}")
    trust = Trust.from_words(asked.trusted)
    folders = [one.absolute() for one in asked.config_dir]
    serve(trust, [*asked.modules_in, *(near for one in folders for near in (one, one.parent))])
    return asked.out, trust
