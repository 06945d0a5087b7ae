"""One job: what Hydra calls with the composed config, alone or as part of a sweep."""

from __future__ import annotations

import gc
import importlib
import os
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from spinevl.build.trust import Trust
from spinevl.build.user_modules import serve
from spinevl.cli import hydra_guard
from spinevl.cli.batch_job import turn
from spinevl.cli.callbacks import remove_new
from spinevl.cli.failure import say, tell
from spinevl.cli.parallel import side_by_side
from spinevl.config.compose import check, register
from spinevl.config.plain import plain
from spinevl.io.children import end_with_parent
from spinevl.io.memory import begin_again
from spinevl.jobs.identity import identity_of, parts
from spinevl.jobs.owner import owned
from spinevl.jobs.record import recorded
from spinevl.jobs.sweep_folder import join_sweep

# Verbs that leave no results, so that they own no folder; and those whose results are shown anew.
_WRITES_NOTHING = ("doctor", "fetch", "leaderboard", "playground")
_SHOWS_RESULTS = ("evaluate",)

# A worker process of a parallel launcher knows our schemas and resolvers, and what Hydra may build,
# only through this import.
register()
hydra_guard.install()


class JobFailed(Exception):
    """A job of a sweep failed and has said why; a string only, so that it crosses processes."""


@dataclass(frozen=True)
class Job:
    """The task function of a verb; a class, so that launchers can pickle it.

    Attributes:
        verb: which stage runs.
        words: of the command line. What they trust is trusted in every job of a sweep and in every
            worker process, and nothing else is: Hydra's own list of overrides can be written to by
            a config.
        lacking: see SweepWords.
        process: of the command; a worker process that it has started ends with it.
    """

    verb: str
    words: tuple[str, ...] = ()
    lacking: Mapping[str, Collection[str]] = field(default_factory=dict)
    process: int = field(default_factory=os.getpid)

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run the stage. Returns what it returns: the score that a sweeper optimises.

        Raises:
            SystemExit: a single job failed, its problems or its traceback are printed.
            JobFailed: the same for a job of a sweep; the others go on.
        """
        if os.getppid() == self.process:
            end_with_parent(self.process)
        hydra_cfg = HydraConfig.get()
        saved = hydra_guard.held_configs()
        if hydra_cfg.mode == RunMode.MULTIRUN:
            with turn(), side_by_side(hydra_cfg.launcher, hydra_cfg.job.num):
                return self._told(cfg, hydra_cfg, saved)
        return self._told(cfg, hydra_cfg, saved)

    def _told(self, cfg: DictConfig, hydra_cfg: Any, saved: Any) -> float | None:
        """The job, which says why it failed."""
        sweep = hydra_cfg.mode == RunMode.MULTIRUN
        try:
            with clean_slate() if sweep else nullcontext():
                return self._in_folder(cfg, hydra_cfg, saved)
        except (Exception, SystemExit) as error:
            tell(error, Path(hydra_cfg.runtime.output_dir))
            if not sweep:
                raise SystemExit(1) from None
            board = Path(hydra_cfg.sweep.dir) / "leaderboard.md"
            raise JobFailed(f"a job of the sweep failed, see {board}") from None

    def _in_folder(self, cfg: DictConfig, hydra_cfg: Any, saved: Any) -> float | None:
        """The stage, in a folder that is the job's own.

        A config that cannot be run touches no folder, except that a sweep keeps account of it where
        there are no results.
        """
        out, sweep = Path(hydra_cfg.runtime.output_dir), hydra_cfg.mode == RunMode.MULTIRUN
        trust = Trust.from_words(self.words)
        config: dict[str, Any] = {}
        own: str | None = None
        decisive: dict[str, str] = {}
        wrong: Exception | None = None
        try:
            self.check(cfg, hydra_cfg, say=say)
            config = plain(cfg)
            if sweep or self.verb not in _WRITES_NOTHING:
                decisive = parts(config, out=out)
                own = identity_of(decisive)
        except Exception as error:
            wrong = error
        stage = importlib.import_module(f"spinevl.stages.{self.verb}")
        if not sweep and (wrong or self.verb in _WRITES_NOTHING):
            remove_new(out)
            if wrong:
                raise wrong
            return stage.main(cfg, out=out, trust=trust)
        if sweep:
            join_sweep(Path(hydra_cfg.sweep.dir), out, hydra_cfg.job.num)
        with owned(out, config, identity=own, say=say) as complete:
            if complete and wrong:
                raise wrong
            if complete and self.verb not in _SHOWS_RESULTS:
                say(f"{out}: this job is complete already; its results stay as they are")
                return complete.value
            overrides = tuple(_overrides(hydra_cfg))
            number = hydra_cfg.job.num if sweep else 0
            with recorded(out, config, identity=own, parts=decisive, number=number,
                          overrides=overrides, verb=self.verb) as record:  # fmt: skip
                hydra_guard.save_configs(saved)  # now the folder is a job's, whenever it is killed
                if wrong:
                    raise wrong
                return record(stage.main(cfg, out=out, trust=trust))

    def check(
        self, cfg: DictConfig, hydra_cfg: Any, *, say: Callable[[str], object] | None = None
    ) -> None:
        """Refuse a config that the stage cannot run with; also before a sweep's first job.

        Args:
            cfg: the job's, without the node ``hydra``; loses the keys that its option lacks.
            hydra_cfg: that node.
            say: is told in a line which keys those are.

        Raises:
            UserError: with every problem.
        """
        trust = Trust.from_words(self.words)
        unresolved: Any = OmegaConf.to_container(cfg)
        trust.refuse_untold(unresolved)
        hydra_guard.check_environment(hydra_cfg.job.env_set, self.words)
        serve(trust, _user_folders(hydra_cfg))
        self._leave_out(cfg, hydra_cfg.runtime.choices, say or (lambda _: None))
        check(cfg, overrides=_overrides(hydra_cfg))

    def _leave_out(
        self, cfg: DictConfig, choices: Mapping[str, str], say: Callable[[str], object]
    ) -> None:
        """Take out the keys that this job's option of a swept group does not have."""
        for key, options in self.lacking.items():
            parent, _, leaf = key.rpartition(".")
            group = parent.partition(".")[0]
            chosen = {name.rpartition("@")[2]: option for name, option in choices.items()}
            if chosen.get(group) in options:
                say(f"{group}={chosen[group]} has no key {key}: it goes without")
                with read_write(cfg), open_dict(cfg):
                    del OmegaConf.select(cfg, parent)[leaf]


def _overrides(hydra_cfg: Any) -> list[str]:
    """The command's overrides as they were written, ``${...}`` included."""
    plain: Any = OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False)
    return plain


def _user_folders(hydra_cfg: Any) -> list[Path]:
    """A user's ``--config-dir`` and the folder that it lies in."""
    sources = hydra_cfg.runtime.config_sources
    return [
        folder
        for source in sources
        if source.provider == "command-line" and source.schema == "file"
        for folder in (Path(source.path), Path(source.path).parent)
    ]


@contextmanager
def clean_slate() -> Iterator[None]:
    """Undo what a job does to the process, so that the next one starts like the first.

    Environment, working directory, random states, torch's defaults and accelerator memory.
    """
    environment, folder, state = dict(os.environ), Path.cwd(), random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(state)
        if numpy_state is not None and numpy is not None:
            numpy.random.set_state(numpy_state)
        if (torch := sys.modules.get("torch")) is not None:
            _reset_torch(torch)
        gc.collect()
        begin_again()


def _reset_torch(torch: Any) -> None:
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
