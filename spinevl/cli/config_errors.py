"""What Hydra and OmegaConf refuse, in one line each that names what is valid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf

from spinevl.cli.help import options
from spinevl.config.compose import suggest
from spinevl.config.conf import CONF_DIR
from spinevl.schema.errors import UserError

_INTERNAL = ("full_key", "object_type", "reference_type", "provider=", "Set the environment")


def explain(error: BaseException, *, verb: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The lines for an error that was raised while the command's config was composed."""
    chain = _chain(error)
    for one in chain:
        if isinstance(one, UserError):
            return one.problems
        if isinstance(one, MissingConfigException):
            return (_missing_option(one, verb, arguments),)
        if isinstance(one, OverrideParseException):
            return (_unreadable(one),)
        if isinstance(one, ConfigCompositionException):
            if match := re.match(r"Could not override '([^']+)'", str(one)):
                return (_unknown_key(match[1], verb, arguments),)
            if match := re.match(r"Error merging override (.*)", str(one)):
                reason = _flat(str(one.__cause__ or ""))
                if "is not a ListConfig" in reason:
                    name, _, value = match[1].partition("=")
                    reason = f"expected a list: '{name}=[{value}]'"
                return (f"{match[1]}: {reason}",)
        if "Unexpected type for root: NoneType" in str(one):
            return tuple(_unset_groups(verb, arguments))
    texts = [text for one in chain if (text := _flat(str(one)))]
    return (": ".join(dict.fromkeys(texts)) or repr(error),)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _flat(text: str) -> str:
    """Several lines as one, without what only a developer of Hydra reads."""
    text = text.split("Config search path:")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_INTERNAL))


def _unreadable(error: OverrideParseException) -> str:
    lexer = str(error.message).startswith("Lexer")
    reason = "" if lexer else f": {_flat(error.message).split(' See ')[0]}"
    hint = (
        "put a value with other characters than letters, digits, . _ / - into quotes within "
        "quotes: \"key='~/a b'\""
        if lexer
        else "write key=value, and lists in quotes: 'sag_image=[5,6]'"
    )
    return f"cannot read {error.override!r}{reason}; {hint}"


def _missing_option(error: MissingConfigException, verb: str, arguments: Sequence[str]) -> str:
    name = re.search(r"Could not (?:find|load) '([^']+)'", str(error))
    if name is None or "/" not in name[1]:
        return _flat(str(error))
    group, option = name[1].rsplit("/", 1)
    origin = re.match(r"In '([^']+)'", str(error))
    at = f"{origin[1]}: " if origin and origin[1] != verb else ""
    known = options(group, *_own_folders(arguments))
    if not known:
        return f"{at}{group}={option}: there is no such option and no group {group} has any"
    return f"{at}{group}={option}: no such option{suggest(option, known)}"


def _own_folders(arguments: Sequence[str]) -> list[Path]:
    """The user's config folders, of ``--config-dir``."""
    folders = []
    for index, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value or next(iter(arguments[index + 1 :]), ".")))
    return folders


def _unknown_key(key: str, verb: str, arguments: Sequence[str]) -> str:
    """``data.n_trian``: the keys that stand beside it in what the rest of the command composes."""
    cfg = _rest(verb, arguments, key)
    parent, _, leaf = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    while parent and not isinstance(node, DictConfig):
        parent, _, leaf = parent.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, DictConfig) and not node and (CONF_DIR / parent).is_dir():
        return f"unknown key '{key}'; this {parent} has none, choose another: {_choices(parent)}"
    dot = f"{parent}." if parent else ""
    # a verb's own key that is no value but a group of another verb reads as an unknown key too
    return f"unknown key '{key}'" + suggest(
        dot + leaf, [f"{dot}{name}" for name in node if name != "_target_"]
    )


def _unset_groups(verb: str, arguments: Sequence[str]) -> list[str]:
    """``data.n_test=5`` where the verb has ``data`` at null: OmegaConf fails on its own assert."""
    cfg = _rest(verb, arguments, "")
    lines = []
    for argument in arguments:
        group, dot, _ = argument.partition("=")[0].partition(".")
        if dot and group in cfg and cfg[group] is None:
            lines.append(
                f"{argument}: {verb} takes {group} from the checkpoint; to set its keys choose it: "
                f"{_choices(group)}"
            )
    return lines or ["a key of a group that is null was set; choose the group's option first"]


def _choices(group: str) -> str:
    """``data=cervai|phantom``"""
    return f"{group}={'|'.join(options(group))}"


def _rest(verb: str, arguments: Sequence[str], key: str) -> DictConfig:
    """The verb's config with the group choices of the command; its defaults where that fails."""
    from hydra import compose, initialize_config_dir

    plain = [
        argument
        for argument in arguments
        if re.match(r"[a-z_/]+=[\w-]+$", argument)
        and (CONF_DIR / argument.split("=")[0]).is_dir()
        and argument.split("=")[0] != key
    ]
    for overrides in (plain, []):
        try:
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                return compose(verb, overrides)
        except Exception:  # the other overrides may be wrong as well
            continue
    return OmegaConf.create({})
