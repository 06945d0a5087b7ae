"""Compose a verb's config, and refuse what the schemas' types alone let pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from spinevl.build.trust import Trust
from spinevl.config.check import hints_of, node_problems, problems
from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.job_folder import job_folder
from spinevl.config.options import SCHEMAS
from spinevl.config.resolve import resolved
from spinevl.config.resolvers import (
    gpus_per_node,
    learning_rate,
    run_name,
    sweep_name,
    verb,
)
from spinevl.config.tasks import official_tasks
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import AUTO, StudyLayout, unknown_slices

# keys of earlier versions -> where they stand now
MOVED_KEYS = {
    "trainer.shift_px": "augment.shift_px",
    "trainer.gain": "augment.gain",
    "trainer.class_weights": "imbalance.class_weights",
    **{
        f"logger.{key}": f"logger.wandb.{key}"
        for key in ("name", "save_dir", "project", "offline", "group", "tags")
    },
}

_PARTS = ("encoder", "connector", "llm", "encoder3d", "connector3d")


def register() -> None:
    """Tell Hydra our schemas and resolvers; may be called again."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from spinevl.config.file_source import read_files_once

    store = ConfigStore.instance()
    if any(f"_{name}.yaml" not in store.repo for name in SCHEMAS):
        Plugins.instance()  # each tells the store its configs; where we have one, ours is meant
        read_files_once()
        for file in (CONF_DIR / "hydra").glob("*/*.yaml"):
            store.repo.get("hydra", {}).get(file.parent.name, {}).pop(file.name, None)
        for name, schema in SCHEMAS.items():
            store.store(name=f"_{name}", node=schema, provider="spinevl")
        # Hydra would copy the whole store for every config, and copies what it loads from it anyway
        ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    OmegaConf.register_new_resolver("spinevl.job_folder", job_folder, replace=True)
    for resolver in (learning_rate, gpus_per_node, run_name, sweep_name, verb):
        OmegaConf.register_new_resolver(f"spinevl.{resolver.__name__}", resolver, replace=True)


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
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    unresolved: Any = OmegaConf.to_container(cfg)
    Trust.from_words(overrides).refuse_untold(unresolved)
    if complete:
        check(cfg, overrides=overrides)
    return cfg


def check(cfg: DictConfig, *, overrides: Sequence[str] = ()) -> None:
    """Refuse what a verb cannot run with: the same lines in every verb that has the key.

    Interpolations are resolved before anything else is looked at. Then come the keys of the
    schema; the arguments of data, split and tasks; and, where all of that is right, the arguments
    of the model's parts, whose classes take seconds to import.

    Args:
        cfg: a verb's whole config.
        overrides: the command's, since repeats in a list of options vanish while composing.

    Raises:
        UserError: with all problems.
    """
    plain, found = resolved(cfg)
    found += _moved_keys(plain)
    schema = OmegaConf.get_type(cfg)
    if is_dataclass(schema):
        found += problems(schema, plain)
        found += _removed_groups(schema, overrides)
    found += _task_problems(plain, overrides)
    found += _part_problems(plain, ("data", "split"))
    found += _slice_problems(plain)
    found += _overridden_parts(plain, overrides)
    if not found:
        found = _part_problems(plain, _PARTS)
    if found:
        raise UserError(found)


def moved_key(key: str) -> str:
    """The line for a key that stands in another group now."""
    return f"{key} is called {MOVED_KEYS[key]} now: write {MOVED_KEYS[key]}=VALUE"


def _moved_keys(plain: dict[str, Any]) -> list[str]:
    """Keys at their old place, which ``+key=value`` gets past Hydra; taken out of ``plain``."""
    found = []
    for key in MOVED_KEYS:
        group, _, name = key.partition(".")
        if isinstance(plain.get(group), dict) and name in plain[group]:
            del plain[group][name]
            found.append(moved_key(key))
    return found


def _removed_groups(schema: type[Any], overrides: Sequence[str]) -> list[str]:
    """``~augment`` would leave the schema's defaults, and not no augmentation."""
    groups = {name for name, hint in hints_of(schema).items() if is_dataclass(hint)}
    return [
        f"{one[1:]} was removed and is needed: drop '{one}'"
        for one in overrides
        if one.startswith("~") and one[1:] in groups
    ]


def _task_problems(plain: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Hydra merges ``task=[qd,qd]`` and composes ``task=[]`` without a word."""
    asked = [o.partition("=")[2] for o in overrides if o.partition("=")[0] in ("task", "+task")]
    tasks = plain.get("task")
    if "task" not in plain or (tasks is None and not asked):
        return []
    if not tasks:
        return ["task=[]: name at least one task of " + ", ".join(official_tasks())]
    names = [name.strip(" '\"") for name in asked[-1].strip("[]").split(",")] if asked else []
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        return [f"task names {', '.join(repeated)} more than once"]
    if "_target_" in tasks:
        found = tasks.get("name") or "NAME"
        return [f"task: a task file holds one mapping: put all of it below '{found}:', indented"]
    return [
        problem
        for name, node in tasks.items()
        for problem in node_problems(node, at=f"task.{name}")
    ]


def _part_problems(plain: Mapping[str, Any], groups: Sequence[str]) -> list[str]:
    """Groups of objects that were removed, and arguments that their classes do not take."""
    found = []
    for group in groups:
        node = plain.get(group)
        if isinstance(node, Mapping) and node:
            found += node_problems(node, at=group)
        elif group in plain and node is not None and not _dispensable(group, plain):
            choices = "|".join(sorted(f.stem for f in (CONF_DIR / group).glob("*.yaml")))
            found.append(f"{group} is not chosen: {group}={choices}")
    return found


def _slice_problems(plain: Mapping[str, Any]) -> list[str]:
    """Slices to be shown that the data do not have, where the config alone says which they have."""
    data, shown = plain.get("data"), plain.get("sag_image")
    if plain.get("checkpoint") or not isinstance(data, Mapping) or not isinstance(shown, list):
        return []
    drawn = str(data.get("_target_")).endswith(".PhantomSource")
    known = data.get("slices", AUTO if drawn else None)
    known = StudyLayout().slices if known == AUTO else known
    whole = isinstance(known, Sequence) and all(type(one) is int for one in [*shown, *known])
    problem = unknown_slices(shown, known) if known is not None and whole else None
    return [problem] if problem else []


def _dispensable(group: str, plain: Mapping[str, Any]) -> bool:
    """Whether a checkpoint or an earlier build's records stand in for a group."""
    stand_in = {"data": None, "split": "records"}.get(group, "checkpoint")
    return stand_in is not None and bool(plain.get(stand_in))


def _overridden_parts(plain: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Parts asked for beside a checkpoint, which brings its own."""
    if not plain.get("checkpoint"):
        return []
    given = [one.partition("=")[0].lstrip("+~").partition("@")[0] for one in overrides]
    return [
        f"{key}: the parts come from checkpoint={plain['checkpoint']}; drop one of the two"
        for key in given
        if key.partition(".")[0] in _PARTS and key != "llm.conversation"
    ]
