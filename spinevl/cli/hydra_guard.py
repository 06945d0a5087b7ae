"""What Hydra itself builds, held to a list: callbacks, launchers, sweepers and logging.

Hydra builds these from the composed config, which any YAML file of a ``--config-dir`` or of an
experiment can write to. It does so through two functions, one for ``_target_`` nodes and one for
logging; both are given their node when everything in it is resolved, and nothing in it is imported
yet. Here they are replaced by ones that check it first. That holds in single jobs, in sweeps and,
because ``spinevl.cli.job`` installs them, in the worker processes of a launcher.

Checking the config once, when it is composed, would not do: values change until they are used (an
interpolation can depend on the number of the job).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra._internal import logging_config
from hydra._internal.instantiate import _instantiate2
from hydra.core import utils
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from spinevl.schema.errors import UserError, refused

CALLBACKS = frozenset(
    {
        "spinevl.cli.callbacks.Leaderboard",
        "spinevl.cli.callbacks.NewFolder",
        "hydra.experimental.callbacks.LogJobReturnCallback",
        "hydra.experimental.callbacks.PickleJobInfoCallback",
    }
)
HANDLERS = frozenset(
    {
        "logging.NullHandler",
        "logging.StreamHandler",
        "logging.FileHandler",
        "logging.handlers.RotatingFileHandler",
        "logging.handlers.TimedRotatingFileHandler",
        "logging.handlers.WatchedFileHandler",
    }
)
FORMATTERS = frozenset({"logging.Formatter", "colorlog.ColoredFormatter"})
STREAMS = frozenset({"ext://sys.stdout", "ext://sys.stderr"})

# Settings of launchers and sweepers that are commands, or name a function to call, and what the
# shipped launcher says there: words that start nothing.
_COMMANDS = (
    *("setup", "teardown", "srun_args", "additional_parameters", "python"),
    *("container_image", "custom_search_space"),
)
_HARMLESS = {
    "srun_args": r"--(nodes|ntasks|cpus-per-task)=\d+|--overlap",
    "additional_parameters": r"(nodes=\d+)|requeue=True|mail-(user|type)=[\w.@,-]+",
}
# a storage of another kind would read pickles
_STORAGE = r"(sqlite|mysql|postgresql)(\+\w+)?://.*"

_instantiate_node = _instantiate2.instantiate_node
_configure_logging = logging_config.configure_logging
_save_config = utils._save_config
_hydras: Any = utils.JobReturn.return_value
_configs: list[tuple[Any, str, Path]] = []  # what Hydra has asked to save for the running job


def _value_of(job: utils.JobReturn) -> Any:
    """What a job returned; a failed one has said why, and Hydra's own line about it is left out."""
    if job.status == utils.JobStatus.FAILED:
        raise job._return_value
    return _hydras.fget(job)


_returned = property(_value_of, _hydras.fset)


def install() -> None:
    """Hold Hydra to the list in this process; may be called again."""
    _instantiate2.instantiate_node = _checked_node
    logging_config.configure_logging = _checked_logging
    utils._save_config = _checked_save
    utils.JobReturn.return_value = _returned  # type: ignore[method-assign,assignment]


def _checked_node(node: Any, *args: Any, **options: Any) -> Any:
    """Hydra's ``instantiate_node``, which is called for every node and those within it."""
    if isinstance(node, DictConfig) and not node._is_none() and "_target_" in node:
        check_node(node["_target_"], node, where=str(node._get_full_key("") or "hydra"))
    return _instantiate_node(node, *args, **options)


def check_node(target: Any, node: Mapping[Any, Any], *, where: str) -> None:
    """Raise UserError unless Hydra may build ``target``; nothing of it is imported here."""
    # launchers and sweepers are those that Hydra found among the installed plugins
    plugin = Plugins.instance().class_name_to_class.get(str(target))
    if plugin is not None and issubclass(plugin, (Launcher, Sweeper)):
        _check_plugin(node, where)
        return
    if package := _EXTRAS.get(str(target).split(".")[1] if "." in str(target) else ""):
        raise UserError(f"{where}: {target} is not installed: pip install 'spinevl[{package}]'")
    sampler = re.fullmatch(r"optuna\.(samplers|pruners)\.[A-Z]\w*", str(target))
    if str(target) not in CALLBACKS and not (sampler and where.startswith("hydra.sweeper")):
        raise UserError(
            f"{where}: {target} is not built; Hydra builds its own callbacks, spinevl's "
            "leaderboard, and the launchers and sweepers that are installed as its plugins"
        )


_EXTRAS = {"hydra_submitit_launcher": "submitit", "hydra_optuna_sweeper": "optuna"}


def _check_plugin(node: Mapping[Any, Any], where: str) -> None:
    """Raise UserError for settings of a launcher or a sweeper that run something."""
    for key in _COMMANDS:
        if node.get(key) and not _harmless(key, node[key]):
            raise UserError(
                f"{where}.{key}: a config cannot name commands or functions to run; do it in the "
                "shell that starts spinevl"
            )
    for key, value in _leaves(OmegaConf.to_container(OmegaConf.create(dict(node))), where):
        if isinstance(value, str) and not value.isprintable():
            # a line of its own in the script that a cluster runs
            raise refused(key, "text of one line", repr(value), "take the line break out")
    storage = node.get("storage")
    if storage is not None and not re.fullmatch(_STORAGE, str(storage)):
        fix = "name sqlite:///FILE, or a server's mysql:// or postgresql://"
        raise refused(f"{where}.storage", "a database", str(storage), fix)
    for key, fix in (("nodes", "trainer.num_nodes"), ("tasks_per_node", "trainer.devices")):
        if node.get(key, 1) != 1:
            expected = "1, since each job starts its own processes"
            raise refused(f"{where}.{key}", expected, str(node[key]), f"set {fix}={node[key]}")


def _harmless(key: str, value: Any) -> bool:
    """Whether a setting that could be a command is one of the words that are none."""
    words = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else value
    if key not in _HARMLESS or isinstance(words, str):
        return False
    return all(re.fullmatch(_HARMLESS[key], str(word)) for word in words)


def _checked_logging(config: dict[str, Any]) -> None:
    """Hydra's ``configure_logging``."""
    check_logging(config, out=_job_folder())
    for node in config.get("handlers", {}).values():
        if "filename" in node:  # opened by the first line, when it is known whose the folder is
            node["delay"] = True
    _configure_logging(config)


def check_logging(config: Mapping[str, Any], *, out: Path | None) -> None:
    """Raise UserError for a logging config that does more than write text to streams and files.

    Args:
        config: as ``logging.config.dictConfig`` takes it, its interpolations resolved.
        out: the job's folder, in which its files must lie; None where there is none yet.
    """
    problems = [
        f"logging: {place}: {value!r} is not used; only {', '.join(sorted(STREAMS))} are"
        for place, value in _leaves(config, "")
        if isinstance(value, str) and re.match(r"(ext|cfg)://", value) and value not in STREAMS
    ]
    for kind, allowed in (("handlers", HANDLERS), ("formatters", FORMATTERS), ("filters", ())):
        nodes = config.get(kind) or {}
        if not isinstance(nodes, Mapping):
            problems.append(f"logging: {kind}: expected a group of keys, found {nodes!r}")
            continue
        for name, node in nodes.items():
            where = f"logging: {kind}.{name}"
            problems += _logging_problems(node, where, set(allowed), factory=kind == "formatters")
            file = node.get("filename") if isinstance(node, Mapping) else None
            if file is not None and not (str(file).endswith(".log") and _lies_in(file, out)):
                # what is appended to a script would run; mode w and rotation destroy other files
                expected = "a name that ends in .log, in the job's folder"
                problems.append(f"{where}: filename={file}: expected {expected}")
    if problems:
        raise UserError(problems)


def _logging_problems(node: Any, where: str, allowed: set[str], *, factory: bool) -> list[str]:
    if not isinstance(node, Mapping):
        return [f"{where}: expected a group of keys, found {node!r}"]
    expected = f"expected one of {', '.join(sorted(allowed))}" if allowed else "leave it out"
    problems = [
        f"{where}: {key}={node[key]} is not used; {expected}"
        for key in ("class", "()")
        if key in node and (node[key] not in allowed or (key == "()" and not factory))
    ]
    if "." in node:  # would set attributes of what was built
        problems.append(f"{where}: the key '.' is not supported")
    return problems


def _job_folder() -> Path | None:
    """The running job's folder; None before a job has one."""
    if not HydraConfig.initialized():
        return None
    runtime = HydraConfig.get().runtime
    return None if OmegaConf.is_missing(runtime, "output_dir") else Path(runtime.output_dir)


def _lies_in(path: Any, folder: Path | None) -> bool:
    """Whether a path lies in a folder, links followed; False without a folder."""
    return folder is not None and Path(str(path)).resolve().is_relative_to(folder.resolve())


def _checked_save(cfg: Any, filename: str, output_dir: Path) -> None:
    """Hydra's ``_save_config``, which writes into ``hydra.output_subdir``; see save_configs."""
    out = _job_folder()
    if not _lies_in(output_dir, out):
        raise UserError(f"hydra.output_subdir={output_dir}: expected a folder in {out}")
    _configs.append((cfg, filename, output_dir))


def held_configs() -> list[tuple[Any, str, Path]]:
    """What Hydra has asked to save since the last call, for save_configs."""
    held = list(_configs)
    _configs.clear()
    return held


def save_configs(held: list[tuple[Any, str, Path]]) -> None:
    """Save what Hydra would have saved before it was known whose folder it is."""
    for cfg, filename, output_dir in held:
        _save_config(cfg, filename, output_dir)


def _leaves(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{where}[{index}]")
    else:
        yield where, node


def check_environment(names: Mapping[str, str], words: tuple[str, ...]) -> None:
    """Refuse environment variables that a config sets for the job (``hydra.job.env_set``).

    They reach every process that the job starts, and some of them name code to load.

    Args:
        names: the variables.
        words: of the command line, where ``hydra.job.env_set.NAME=VALUE`` may name them.
    """
    told = {word.partition("=")[0].lstrip("+") for word in words}
    untold = [name for name in names if f"hydra.job.env_set.{name}" not in told]
    if untold:
        raise UserError(
            f"hydra.job.env_set: {', '.join(untold)} comes from a config file, and only the "
            f"command line can set variables: +hydra.job.env_set.{untold[0]}=VALUE"
        )
