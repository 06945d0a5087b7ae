"""A study of Optuna that was begun before goes on: its storage keeps every trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, read_write

from spinevl.cli.hydra_guard import check_node
from spinevl.schema.errors import UserError

_OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


def reopen(hydra_cfg: DictConfig, *, say: Callable[[str], object]) -> None:
    """Make a sweep go on with the study in its storage; nothing where Optuna does not sweep.

    ``n_trials`` counts the trials of all commands. A trial that was running when its command was
    killed is tried again, unless the storage is shared with sweeps elsewhere, which may be running
    it. Jobs are numbered after the earlier ones.

    Args:
        hydra_cfg: the node ``hydra`` of the sweep, which is changed.
        say: is told in a line what happened.

    Raises:
        UserError: the storage cannot be opened.
    """
    node = hydra_cfg.sweeper
    if node.get("_target_") != _OPTUNA or not node.get("storage"):
        return
    check_node(_OPTUNA, node, where="hydra.sweeper")
    import optuna
    from optuna.trial import TrialState

    try:
        study = optuna.load_study(study_name=node.study_name, storage=node.storage)
    except KeyError:  # it begins with this command
        _number_from(0)
        return
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"hydra.sweeper.storage={node.storage}: {reason}") from error
    cut = [one for one in study.trials if one.state == TrialState.RUNNING]
    if str(Path(hydra_cfg.sweep.dir)) not in str(node.storage):
        cut = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for trial in cut:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    done = [one for one in study.trials if one.state in (TrialState.COMPLETE, TrialState.FAIL)]
    left = max(0, node.n_trials - len(done) + len(cut))
    say(f"{node.storage}: the study has {len(done) - len(cut)} trials; {left} are to come")
    with read_write(node):
        node.n_trials = left
        if (seed := node.sampler.get("seed")) is not None:
            node.sampler.seed = seed + len(done)  # not the values that it began with once more
    _number_from(len(done))


def _number_from(number: int) -> None:
    """Let the sweeper number its jobs from here."""
    from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

    global _setup
    _setup = _setup or OptunaSweeperImpl.setup

    def setup(self: Any, **options: Any) -> None:
        _setup(self, **options)
        self.job_idx = number

    OptunaSweeperImpl.setup = setup


_setup: Any = None
