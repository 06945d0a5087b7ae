"""The words of a command line, put as Hydra needs them.

Hydra takes flags in front of overrides only, applies an override to every option of a group that a
sweep goes over, and names a job's folder by all of its overrides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from spinevl.config.compose import compose

_FOLDER_KEYS = "hydra.job.config.override_dirname.exclude_keys"


def flags_first(words: Sequence[str]) -> list[str]:
    """The same words with the flags before the overrides, where Hydra's parser takes them."""
    takes = {
        flag: action.nargs
        for action in get_args_parser()._actions
        for flag in action.option_strings
        if not isinstance(action, argparse._VersionAction)
    }
    flags, overrides, rest = list[str](), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
        elif takes.get(word, 0) is None and rest:  # a flag with a value
            flags += [word, rest.pop(0)]
        elif takes.get(word) == "?":  # attached, or an override behind it would be its value
            given = bool(rest) and "=" not in rest[0] and not rest[0].startswith("-")
            flags.append(f"--info={rest.pop(0) if given else 'all'}")
        else:
            flags.append(word)
    return [*flags, *overrides]


def asks_for_sweep(words: Sequence[str]) -> bool:
    """Whether Hydra would run a sweep; its parser takes flags that are cut short, too."""
    return any(
        word == "-m"
        or (word.startswith("--m") and "--multirun".startswith(word))
        or (word.lstrip("+").startswith("hydra.mode=") and "multi" in word.lower())
        for word in words
    )


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """The user's config folders, of ``--config-dir``."""
    folders = []
    for index, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value or next(iter(arguments[index + 1 :]), ".")))
    return folders


@dataclass(frozen=True)
class SweepWords:
    """A command's words as Hydra is given them.

    Attributes:
        words: flags and overrides.
        lacking: dotted key -> the options of its group that have no such key, where others of the
            swept ones do. Their jobs go without it.
    """

    words: tuple[str, ...]
    lacking: dict[str, tuple[str, ...]]


def sweep_words(verb: str, words: Sequence[str], *, own: Path | None = None) -> SweepWords:
    """What Hydra is given for the words of a command; the same where nothing is swept.

    Args:
        verb: the verb.
        words: behind it, flags first.
        own: the folder of ``--config-dir``.
    """
    texts = [
        word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~"))
    ]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except HydraException:  # Hydra tells the same, and its error is explained
        return SweepWords(tuple(words), {})
    swept = [one for one in overrides if one.is_sweep_override()]
    lacking = _lacking(verb, overrides, swept, own)
    given = [_forced(word) if word.partition("=")[0] in lacking else word for word in words]
    varied = {one.key_or_group for one in swept}
    fixed = sorted({one.key_or_group for one in overrides} - varied)
    told = any(one.key_or_group.startswith(_FOLDER_KEYS) for one in overrides)
    sweeps = swept or asks_for_sweep(words)  # an experiment may say over what
    if sweeps and fixed and not told:
        given.append(f"{_FOLDER_KEYS}=[{','.join(map(repr, fixed))}]")
    return SweepWords(tuple(given), {key.lstrip("+"): found for key, found in lacking.items()})


def _forced(word: str) -> str:
    return f"++{word.lstrip('+')}"


def _lacking(
    verb: str, overrides: Sequence[Override], swept: Sequence[Override], own: Path | None
) -> dict[str, tuple[str, ...]]:
    """The keys, as the command has them, that some but not all of a swept group's options have."""
    found = {}
    for group in swept:
        at = group.package or group.key_or_group
        keys = [
            one.input_line.partition("=")[0]
            for one in overrides
            if one.input_line and one.key_or_group.startswith(f"{at}.") and not one.is_delete()
        ]
        if not keys or not group.is_choice_sweep():
            continue
        options = list(group.sweep_string_iterator())
        try:
            composed = {
                option: compose(
                    verb, [f"{group.get_key_element()}={option}"], config_dir=own, complete=False
                )
                for option in options
            }
        except Exception:  # an option that does not compose is explained when it is asked for
            continue
        for key in keys:
            without = tuple(o for o, cfg in composed.items() if not _has(cfg, key.lstrip("+")))
            if 0 < len(without) < len(options):
                found[key] = without
    return found


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent)
    return isinstance(node, DictConfig) and leaf in node.keys()  # noqa: SIM118 - "???" counts too
