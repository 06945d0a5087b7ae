"""What a job tells its worker processes: its folder, and what the user trusts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spinevl.build.trust import Trust, says_trust
from spinevl.build.user_modules import UserModules, serve
from spinevl.schema.errors import UserError


def worker_words(out: Path, trust: Trust) -> list[str]:
    """The words for a worker: ``OUT``, ``--modules-in DIR``..., ``trusted_targets=[...]``."""
    finders = [one for one in sys.meta_path if isinstance(one, UserModules)]
    folders = [folder for one in finders for folder in one.folders]
    return [str(out), *(f"--modules-in={folder}" for folder in folders), *trust.to_words()]


def read_worker_words(words: Sequence[str]) -> tuple[Path, Trust]:
    """What ``worker_words`` told; from now on the user's modules are found.

    Raises:
        UserError: a word that says nothing of trust.
    """
    parser = argparse.ArgumentParser(prog="a worker of spinevl")
    parser.add_argument("out", type=Path)
    parser.add_argument("--modules-in", type=Path, action="append", default=[])
    parser.add_argument("trusted", nargs="*")
    asked = parser.parse_intermixed_args(words)
    if others := [word for word in asked.trusted if not says_trust(word)]:
        raise UserError(f"{others[0]}: a worker takes its keys from the files in {asked.out}")
    trust = Trust.from_words(asked.trusted)
    serve(trust, asked.modules_in)
    return asked.out, trust
