"""Compose a verb's config, and refuse what types alone let pass."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from spinevl.build.trust import Trust
from spinevl.config.conf import CONF_DIR, official_tasks, register
from spinevl.config.options import PRECISIONS, Packing
from spinevl.schema.errors import UserError


def compose(
    verb: str,
    overrides: Sequence[str] = (),
    *,
    config_dir: Path | None = None,
    complete: bool = True,
) -> DictConfig:
    """The config that ``spinevl VERB OVERRIDES`` would get, without running anything.

    It is checked where it is to be ``complete``; a help page may lack what a job must be given.

    ``${hydra:...}`` values resolve only inside a job.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register()
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    path = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra_compose(verb, [*path, *overrides], return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    unresolved: Any = OmegaConf.to_container(cfg)
    Trust.from_words(overrides).refuse_untold(unresolved)
    if complete:
        check(cfg, choices=choices, overrides=overrides)
    return cfg


def check(
    cfg: DictConfig, *, choices: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> None:
    """Refuse what the schema's types cannot: empty, repeated or impossible scalars, stray keys.

    Args:
        cfg: a verb's whole config.
        choices: group -> the option chosen, as Hydra keeps it in ``hydra.runtime.choices``.
        overrides: the command's, since repeats in a list of options vanish while composing.

    Raises:
        UserError: with all problems.
    """
    problems = [*_stray_keys(cfg), *_slice_problems(cfg), *_task_problems(cfg, overrides)]
    problems += [f"{key} must be given: {key}=VALUE" for key in _missing(cfg)]
    problems += _value_problems(cfg)
    problems += _overridden_parts(cfg, overrides)
    for group, choice in (choices or {}).items():
        problems += _unlike_default(cfg, group, choice)
    if (suffix := cfg.get("suffix")) and not re.fullmatch(r"[A-Za-z0-9._-]+", suffix):
        problems.append(f"suffix={suffix}: a file name's middle takes letters, digits, . _ and -")
    for prefix in cfg.get("trusted_targets", ()):
        if not all(part.isidentifier() for part in prefix.split(".")):
            problems.append(
                f"trusted_targets: {str(prefix)!r} is no package name such as mypkg.models"
            )
    if problems:
        raise UserError(problems)


# key -> whole number?, lowest, highest; None is no bound
_RANGES: dict[str, tuple[bool, float, float | None]] = {
    "trainer.max_epochs": (True, 1, None),
    "trainer.batch_patients": (True, 1, None),
    "trainer.accumulate": (True, 1, None),
    "trainer.dev_checks": (True, 1, None),
    "trainer.num_workers": (True, 0, None),
    "trainer.clip_norm": (False, 0, None),
    "trainer.shift_px": (True, 0, None),
    "trainer.gain": (False, 0, 1),
    "warmup.weight": (False, 0, None),
    "warmup.fraction": (False, 0, 0.95),
    "optim.weight_decay": (False, 0, None),
    "optim.warmup_ratio": (False, 0, 1),
    "feature_cache.max_gb": (False, 0, None),
    "predict.batch_size": (True, 1, None),
    "predict.max_new_tokens": (True, 1, None),
    "seed": (True, 0, 2**32 - 1),
    "predict.repetition_penalty": (False, 0.01, None),
}
_VALUES: dict[str, tuple[str, ...]] = {
    "optim.schedule": ("cosine", "constant"),
    "trainer.packing": tuple(Packing),
    "trainer.class_weights": ("inverse_sqrt", "none"),
    "trainer.precision": ("auto", *PRECISIONS.values(), *PRECISIONS),
    "tuning.encoder": ("frozen", "lora", "full"),
    "tuning.connector": ("frozen", "full"),
    "tuning.llm": ("frozen", "lora", "full"),
    "llm.conversation": ("chat", "medmvl", "pretrain"),
}


def _value_problems(cfg: DictConfig) -> list[str]:
    """Values of groups without a constructor that no training could start with."""
    problems = []
    for key, (whole, low, high) in _RANGES.items():
        value = OmegaConf.select(cfg, key)
        if value is None or not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        fits = low <= value and (high is None or value <= high)
        if not fits or (whole and value != int(value)):
            bound = f"{low} or more" if high is None else f"{low} to {high}"
            problems.append(f"{key}={value}: expected {'a whole number, ' if whole else ''}{bound}")
    for key, names in _VALUES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and str(value) not in names:
            problems.append(f"{key}={value}: expected {', '.join(names)}")
    return problems


def _overridden_parts(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Parts asked for beside a checkpoint, which brings its own."""
    if not cfg.get("checkpoint"):
        return []
    given = [one.partition("=")[0].lstrip("+~").partition("@")[0] for one in overrides]
    parts = ("encoder", "connector", "llm", "encoder3d", "connector3d")
    return [
        f"{key}: the parts come from checkpoint={cfg.checkpoint}; drop one of the two"
        for key in given
        if key.partition(".")[0] in parts and key != "llm.conversation"
    ]


def _missing(cfg: DictConfig) -> list[str]:
    """Dotted keys whose value is ``???``; interpolations, which may need a job, stay untouched."""
    found = []
    plain: Any = OmegaConf.to_container(cfg)
    for group, node in plain.items():
        parts = node if isinstance(node, dict) else {None: node}
        found += [f"{group}.{k}" if k else str(group) for k, v in parts.items() if v == "???"]
    return sorted(found)


def _stray_keys(cfg: DictConfig) -> list[str]:
    """Top-level keys that no schema has: ``+foo=1`` gets past Hydra."""
    schema = OmegaConf.get_type(cfg)
    if not is_dataclass(schema):
        return []
    valid = [field.name for field in fields(schema)]
    return [f"unknown key '{k}'{suggest(k, valid)}" for k in map(str, cfg) if k not in valid]


def _slice_problems(cfg: DictConfig) -> list[str]:
    slices = cfg.get("sag_image")
    if slices is None:
        return []
    problems = []
    if not slices:
        problems.append("sag_image=[]: name at least one slice, such as [6]")
    if repeated := [str(s) for s, count in Counter(slices).items() if count > 1]:
        problems.append(f"sag_image names slice {', '.join(repeated)} more than once")
    return problems


def _task_problems(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Hydra merges ``task=[qd,qd]`` and composes ``task=[]`` without a word."""
    asked = [o.partition("=")[2] for o in overrides if o.partition("=")[0] in ("task", "+task")]
    if not asked and not ("task" in cfg and cfg.task is not None):
        return []
    if not cfg.get("task"):
        return ["task=[]: name at least one task of " + ", ".join(official_tasks())]
    names = [name.strip(" '\"") for name in asked[-1].strip("[]").split(",")] if asked else []
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return [f"task names {', '.join(repeated)} more than once"] if repeated else []


def _unlike_default(cfg: DictConfig, group: str, choice: Any) -> list[str]:
    """Keys and types of a part without a constructor, held against the file that it came from."""
    file = CONF_DIR / group / f"{choice}.yaml"
    if group not in cfg or cfg[group] is None or not file.is_file():
        return []
    default: Any = OmegaConf.to_container(OmegaConf.load(file))
    given: Any = OmegaConf.to_container(cfg[group])
    problems = []
    if default and "_target_" not in default:
        problems = [
            f"unknown key '{group}.{key}'{suggest(str(key), list(default))}"
            for key in given
            if key not in default
        ]
    return problems + _unlike(default, given, group)


def _unlike(default: Any, given: Any, where: str) -> list[str]:
    if isinstance(default, dict) and isinstance(given, dict):
        return [
            problem
            for key, value in given.items()
            if key in default
            for problem in _unlike(default[key], value, f"{where}.{key}")
        ]
    kind = {bool: "true or false", int: "a number", float: "a number", dict: "a group of keys"}
    expected = kind.get(type(default))
    fits = (
        isinstance(given, (int, float)) and not isinstance(given, bool)
        if expected == "a number"
        else isinstance(given, type(default))
    )
    if expected is None or fits or given is None:
        return []
    return [f"{where}={given}: expected {expected} (such as {str(default).lower()})"]


def suggest(word: str, valid: Sequence[str]) -> str:
    """``; did you mean seed? valid: ...``"""
    close = difflib.get_close_matches(word, valid, 1)
    return (f"; did you mean {close[0]}?" if close else ";") + f" valid: {', '.join(valid)}"
