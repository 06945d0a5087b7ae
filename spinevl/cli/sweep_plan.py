"""The jobs of a sweep, composed and checked before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from spinevl.cli.config_errors import explain
from spinevl.cli.words import own_folders
from spinevl.config.plain import plain
from spinevl.jobs.identity import absent_inputs
from spinevl.schema.errors import UserError

if TYPE_CHECKING:
    from spinevl.cli.job import Job

# a job there may read what this machine does not see
_ELSEWHERE = ".SlurmLauncher"


def batches(cfg: DictConfig) -> list[list[list[str]]]:
    """The overrides of each job of a sweep, in the batches that are launched at once.

    Args:
        cfg: the config of the sweep, before it is divided into jobs.

    Returns:
        None of them where the sweeper chooses each job by the scores so far, as Optuna does.
    """
    sweeper = cfg.hydra.sweeper
    if not str(sweeper.get("_target_")).endswith(".BasicSweeper"):
        return []
    told: Any = OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*params, *told])
    return BasicSweeper.split_arguments(overrides, sweeper.max_batch_size)


def planned_jobs(cfg: DictConfig, job: Job) -> list[list[str]]:
    """The overrides of the jobs of a sweep by their numbers, all checked; see batches.

    Args:
        cfg: the config of the sweep, before it is divided into jobs.
        job: the task function, which says what it refuses.

    Raises:
        UserError: with what no job can run with, and a line for each job with problems of its own.
    """
    try:
        jobs = [words for batch in batches(cfg) for words in batch]
    except HydraException as error:
        raise UserError(_explained(error, job, job.words)) from error
    running = HydraConfig.instance().cfg
    folders: dict[str, int] = {}
    try:
        found = [_problems(cfg, words, k, job, folders) for k, words in enumerate(jobs)]
    finally:
        HydraConfig.instance().cfg = running
    if any(found):
        raise UserError(_lines(found, jobs))
    BasicSweeper.validate_batch_is_legal = _composed_already  # type: ignore[method-assign]
    return jobs


def _composed_already(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
    """Hydra would compose every job once more before it launches them."""


def _problems(
    cfg: DictConfig, words: Sequence[str], number: int, job: Job, folders: dict[str, int]
) -> list[str]:
    """What is wrong with a job; its folder is noted in ``folders``."""
    try:
        one = GlobalHydra.instance().config_loader().load_sweep_config(cfg, list(words))
    except Exception as error:  # Hydra's, of a config that does not compose
        own = [f"--config-dir={folder}" for folder in own_folders(job.words)]
        return _explained(error, job, [*own, *words])
    out = _enter(one, number)
    if (other := folders.setdefault(out, number)) != number:
        return [
            f"hydra.sweep.subdir: {out}: expected a folder for each job, found that of job {other} "
            f"for job {number} too; leave it out, or put ${{hydra.job.num}} into it"
        ]
    with read_write(one), open_dict(one):
        del one["hydra"]
    try:
        job.check(one, HydraConfig.get())
        elsewhere = str(cfg.hydra.launcher.get("_target_")).endswith(_ELSEWHERE)
        return [] if elsewhere else absent_inputs(plain(one))
    except UserError as error:
        return list(error.problems)


def _explained(error: Exception, job: Job, words: Sequence[str]) -> list[str]:
    """See explain, which composes with a Hydra of its own: there must be no other meanwhile."""
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        return list(explain(error, verb=job.verb, arguments=words))
    finally:
        GlobalHydra.instance().hydra = held


def _enter(cfg: DictConfig, number: int) -> str:
    """Let ``${hydra:...}`` have the values of a job, as when it runs; returns its folder."""
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    HydraConfig.instance().set_config(cfg)
    out = str(Path(cfg.hydra.sweep.dir, str(cfg.hydra.sweep.subdir)).absolute())
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = out
    HydraConfig.instance().set_config(cfg)
    return out


def _lines(found: Sequence[Sequence[str]], jobs: Sequence[Sequence[str]]) -> list[str]:
    """What is wrong with every job once, then a line for each job with problems of its own."""
    common = [one for one in found[0] if all(one in each for each in found)]
    shared = set(jobs[0]).intersection(*jobs)
    lines = list(common)
    for number, (problems, words) in enumerate(zip(found, jobs, strict=True)):
        if own := [one for one in problems if one not in common]:
            name = " ".join(word for word in words if word not in shared)
            lines.append(f"job {number} ({name}): {'; '.join(own)}")
    return lines
