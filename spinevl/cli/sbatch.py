"""``spinevl sbatch VERB -m ...``: the script that SLURM would get, and nothing is submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from spinevl.cli import hydra_guard
from spinevl.cli.sweep_plan import batches
from spinevl.cli.words import own_folders, sweep_words
from spinevl.config.compose import register
from spinevl.config.conf_dir import CONF_DIR
from spinevl.schema.errors import UserError, refused

_LAUNCHER = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


def script(verb: str, words: Sequence[str]) -> str:
    """The script of ``spinevl VERB WORDS``, as ``sbatch`` gets it.

    Args:
        verb: the verb of the sweep.
        words: behind it, flags first, ``hydra/launcher=submitit_slurm`` among them.

    Raises:
        UserError: another launcher is chosen, or submitit is not installed or refuses a setting.
    """
    own = next(iter(own_folders(words)), None)
    told = sweep_words(verb, words, own=own).words
    overrides = [word for word in told if "=" in word or word.startswith("~")]
    overrides = [word for word in overrides if not word.startswith("-")]
    cfg, at_once = _composed(verb, overrides, own)
    launcher: Any = cfg.hydra.launcher
    if launcher.get("_target_") != _LAUNCHER:
        chosen = cfg.hydra.runtime.choices["hydra/launcher"]
        raise refused(
            "sbatch",
            "hydra/launcher=submitit_slurm",
            f"hydra/launcher={chosen}",
            "add it to the command",
        )
    hydra_guard.check_node(_LAUNCHER, launcher, where="hydra.launcher")
    params: Any = OmegaConf.to_container(launcher, resolve=True)
    try:
        return _text(params, jobs=at_once)
    except (AssertionError, ValueError, NameError, TypeError) as error:
        raise UserError(f"hydra.launcher: {str(error).splitlines()[0]}") from error


def _composed(verb: str, overrides: Sequence[str], own: Any) -> tuple[DictConfig, int]:
    """The config of a sweep before it is divided into jobs, and how many start at once."""
    register()
    path = [f"hydra.searchpath=[file://{own.resolve()}]"] if own else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        cfg = hydra.compose_config(verb, [*path, *overrides], RunMode.MULTIRUN)
        first = next(iter(batches(cfg)), None)
        return cfg, len(first) if first else int(cfg.hydra.sweeper.get("n_jobs") or 1)


def _text(params: Mapping[str, Any], *, jobs: int) -> str:
    """What submitit makes of the launcher's settings, without a cluster."""
    from submitit import AutoExecutor
    from submitit.slurm.slurm import SlurmExecutor

    class Here(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # as if srun were there

        @classmethod
        def name(cls) -> str:
            return "slurm"

    own = {"_target_", "submitit_folder", "max_num_timeout"}
    given = {key: value for key, value in params.items() if key not in own and value is not None}
    for key, kind in AutoExecutor._typed_parameters().items():
        if key in given and not isinstance(given[key], (kind, int)):
            raise TypeError(f"{key}={given[key]}: expected {kind.__name__}")
    executor = Here(params["submitit_folder"], max_num_timeout=params["max_num_timeout"])
    executor.update_parameters(**executor._convert_parameters(given))
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    return executor._make_submission_file_text(executor._submitit_command_str, "0")
