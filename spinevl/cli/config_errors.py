"""What Hydra and OmegaConf refuse, in one line each that names what is valid."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spinevl.build.allowlist import OURS
from spinevl.build.signature import signature_of
from spinevl.cli.help import options
from spinevl.cli.words import own_folders
from spinevl.config.annotations import shown
from spinevl.config.check import expectation
from spinevl.config.compose import MOVED_KEYS, compose, moved_key
from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.options import SCHEMAS
from spinevl.config.suggest import suggest
from spinevl.schema.errors import UserError

_INTERNAL = ("full_key", "object_type", "reference_type", "provider=", "Set the environment")


def explain(error: BaseException, *, verb: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The lines for an error that was raised while the command's config was composed.

    Hydra stops at the first override that it refuses. So that all problems are listed at once, the
    override is set aside and the rest composed, until the rest composes and can be checked.
    """
    lines = _lines(error, verb, arguments)
    overrides = [one for one in arguments if not one.startswith("-")]
    if not _can_try_again(arguments):
        return lines
    found = list(lines)
    refused = _refused(error, overrides)
    while refused is not None:
        overrides = [one for one in overrides if one != refused]
        try:
            compose(verb, overrides, config_dir=next(iter(own_folders(arguments)), None))
            break
        except Exception as another:
            found += _lines(another, verb, overrides)
            refused = _refused(another, overrides)
    return tuple(dict.fromkeys(found))


def _can_try_again(arguments: Sequence[str]) -> bool:
    """Not with ``-m``, nor with flags whose own value may read like an override."""
    flags = [one for one in arguments if one.startswith("-")]
    return not flags or all(re.match(r"--config-dir=|--help$|-h$", one) for one in flags)


def _refused(error: BaseException, overrides: Sequence[str]) -> str | None:
    """The override that Hydra stopped at; None where the error names none."""
    for one in _chain(error):
        if isinstance(one, OverrideParseException):
            return one.override if one.override in overrides else None
        text = str(one)
        if isinstance(one, MissingConfigException):
            name = re.search(r"Could not (?:find|load) '([^']+)'", text)
            group, _, option = name[1].rpartition("/") if name else ("", "", "")
            named = [o for o in overrides if _key(o) == group and option in o]
            return named[0] if named else None
        if isinstance(one, ConfigCompositionException):
            if match := re.match(r"Error merging override (.*)", text):
                return match[1] if match[1] in overrides else None
            for match in re.finditer(r"'([^']+)'", text):
                named = [o for o in overrides if _key(o) == match[1]]
                if named:
                    return named[0]
    return None


def _key(override: str) -> str:
    """``optim.lr.llm`` of ``++optim.lr.llm=1``"""
    return override.partition("=")[0].lstrip("+~")


def _lines(error: BaseException, verb: str, arguments: Sequence[str]) -> tuple[str, ...]:
    chain = _chain(error)
    for one in chain:
        if isinstance(one, UserError):
            return one.problems
        if isinstance(one, MissingConfigException):
            return (_missing_option(one, verb, arguments),)
        if isinstance(one, OverrideParseException):
            return (_unreadable(one),)
        if isinstance(one, ConfigCompositionException) and (
            line := _of_an_override(one, verb, arguments)
        ):
            return (line,)
        # Hydra's TypeError is of a list that holds no names
        if str(one).startswith("Config group override must be") or isinstance(one, TypeError):
            named = [o for o in arguments if (CONF_DIR / _key(o)).is_dir() and "=" in o]
            wrong = [
                o for o in named if re.search(r"=(null|[\d.]+|true|false|\[.*\])$", o)
            ] or named
            if wrong:
                return tuple(f"{o}: expected an option, {_choices(_key(o))}" for o in wrong)
        if re.match(r"Unexpected type( for root)?: None", str(one)):  # OmegaConf's own assertion
            return tuple(_unset_groups(verb, arguments))
    for one in chain:
        if isinstance(one, OmegaConfBaseException) and getattr(one, "full_key", None):
            return (_of_a_file(one, chain, verb, arguments),)
    texts = [text for one in chain if (text := _flat(str(one)))]
    return (": ".join(dict.fromkeys(texts)) or repr(error),)


def _of_an_override(error: Exception, verb: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with an override that Hydra could not apply."""
    text = str(error)
    if match := re.match(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], verb, arguments)
    if match := re.match(r"Could not delete from config. '([^']+)' does not exist", text):
        return _unknown_key(match[1], verb, arguments)
    if match := re.match(r"Error merging override (.*)", text):
        override = match[1]
        reason = _flat(str(error.__cause__ or ""))
        name = _key(override)
        if override.startswith("~"):
            return f"{name} was removed and is needed: drop '{override}'"
        if re.search(r"(Key '.*' (is )?not in|does not exist)", reason):
            return _unknown_key(name, verb, arguments)
        if "is not a ListConfig" in reason:
            value = _as_a_list(verb, arguments, name, override.partition("=")[2])
            reason = f"expected a list: '{name}=[{value}]'"
        elif takes := expectation(SCHEMAS[verb], name):
            reason = f"expected {takes}"
        return f"{override}: {reason}"
    return None


def _of_a_file(
    error: Any, chain: Sequence[BaseException], verb: str, arguments: Sequence[str]
) -> str:
    """What is wrong with a value of a YAML file: its dotted key, and the file where it is named."""
    origin = next((m[1] for one in chain if (m := re.match(r"In '([^']+)'", str(one)))), None)
    at = f"{origin}: " if origin and origin != verb else ""
    reason = _flat(error.msg or str(error))
    if re.search(r"Key '.*' (is )?not in", reason):
        return at + _unknown_key(str(error.full_key), verb, arguments)
    takes = expectation(SCHEMAS[verb], str(error.full_key))
    given = getattr(error, "value", None)
    value = f"={'null' if str(given) == 'None' else shown(given)}" if given is not None else ""
    return f"{at}{error.full_key}{value}: {f'expected {takes}' if takes else reason}"


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
    # letters, digits and a few signs need no quotes; braces and blanks do
    lexer = str(error.message).startswith("Lexer") or "{" in str(error.override)
    reason = "" if lexer else f": {_flat(error.message).split(' See ')[0]}"
    hint = (
        "put a value with other characters than letters, digits, . _ / - into quotes within "
        "quotes: \"key='~/a b'\", 'key=\"{id}/a.png\"'"
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
    known = options(group, *own_folders(arguments))
    if not known:
        return f"{at}{group}={option}: there is no such option and no group {group} has any"
    return f"{at}{group}={option}: no such option{suggest(option, known)}"


def _unknown_key(key: str, verb: str, arguments: Sequence[str]) -> str:
    """``data.n_trian``: the keys that stand beside it in what the rest of the command composes."""
    if key in MOVED_KEYS:
        return moved_key(key)
    cfg = _rest(verb, arguments, key)
    parent, _, leaf = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    while parent and not isinstance(node, DictConfig):
        parent, _, leaf = parent.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, DictConfig) and not node and (CONF_DIR / parent).is_dir():
        return f"unknown key '{key}'; this {parent} has none, choose another: {_choices(parent)}"
    if not parent and leaf in node and (CONF_DIR / leaf).is_dir():
        return f"{key}: expected an option, {_choices(key)}"
    if isinstance(node, DictConfig) and leaf in _arguments(node):
        return f"{key} is not in the YAML file of this option: add it with +{key}=VALUE"
    dot = f"{parent}." if parent else ""
    # a verb's own key that is no value but a group of another verb reads as an unknown key too
    return f"unknown key '{key}'" + suggest(
        dot + leaf, [f"{dot}{name}" for name in node if name != "_target_"]
    )


def _arguments(node: DictConfig) -> Collection[str]:
    """What the constructor of a node's class takes; nothing where it is not ours."""
    target = str(node.get("_target_", ""))
    if not target.startswith("spinevl."):
        return ()
    try:
        return signature_of(OURS.named(target, where="")).parameters
    except (UserError, ImportError):
        return ()


def _as_a_list(verb: str, arguments: Sequence[str], name: str, value: str) -> str:
    """What a list can hold where one value was told: that one, or the several it has by default."""
    default: Any = OmegaConf.select(_rest(verb, arguments, name), name)
    several = isinstance(default, ListConfig) and len(default) > 1
    return ",".join(map(str, default)) if several else value


def _unset_groups(verb: str, arguments: Sequence[str]) -> list[str]:
    """``data.n_test=5`` where the verb has ``data`` at null: OmegaConf fails on its own assert."""
    cfg = _rest(verb, arguments, "")
    lines = []
    for argument in arguments:
        group, dot, rest = argument.partition("=")[0].partition(".")
        option, deeper, _ = rest.partition(".")  # logger.wandb.project
        if deeper and group in cfg and cfg[group] and cfg[group].get(option, 0) is None:
            lines.append(f"{argument}: {group}.{option} is null; choose it: {_choices(group)}")
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
    own = [f"'file://{one.absolute()}'" for one in own_folders(arguments)]
    search = [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    for overrides in ([*search, *plain], plain, []):
        try:
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                return compose(verb, overrides)
        except Exception:  # the other overrides may be wrong as well
            continue
    return OmegaConf.create({})
