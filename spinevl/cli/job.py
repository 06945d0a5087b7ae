"""One job: what Hydra calls with the composed config, alone or as part of a sweep."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import random
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from spinevl.build.trust import Trust
from spinevl.build.user_modules import serve
from spinevl.cli import hydra_guard
from spinevl.cli.parallel import side_by_side
from spinevl.config.compose import check, register
from spinevl.jobs.status import JobStatus, write_status
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

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
    """

    verb: str
    words: tuple[str, ...] = ()
    lacking: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run the stage. Returns what it returns: the score that a sweeper optimises.

        Raises:
            SystemExit: a single job failed, its problems or its traceback are printed.
            JobFailed: the same for a job of a sweep; the others go on.
        """
        hydra_cfg = HydraConfig.get()
        out = Path(hydra_cfg.runtime.output_dir)
        if hydra_cfg.mode == RunMode.MULTIRUN:
            with side_by_side(hydra_cfg.launcher, hydra_cfg.job.num):
                return self._sweep_job(cfg, out, hydra_cfg)
        try:
            return self._stage(cfg, out, hydra_cfg)
        except Exception as error:
            _tell(error)
            raise SystemExit(1) from None

    def _stage(self, cfg: DictConfig, out: Path, hydra_cfg: Any) -> float | None:
        trust = Trust.from_words(self.words)
        unresolved: Any = OmegaConf.to_container(cfg)
        trust.refuse_untold(unresolved)
        hydra_guard.check_environment(hydra_cfg.job.env_set, self.words)
        serve(trust, _user_folders(hydra_cfg))
        self._leave_out(cfg, hydra_cfg.runtime.choices)
        check(cfg, overrides=_overrides(hydra_cfg))
        stage = importlib.import_module(f"spinevl.stages.{self.verb}")
        return stage.main(cfg, out=out, trust=trust)

    def _leave_out(self, cfg: DictConfig, choices: Mapping[str, str]) -> None:
        """Take out the keys that this job's option of a swept group does not have."""
        for key, options in self.lacking.items():
            parent, _, leaf = key.rpartition(".")
            group = parent.partition(".")[0]
            chosen = {name.rpartition("@")[2]: option for name, option in choices.items()}
            if chosen.get(group) in options:
                log.info("%s=%s has no key %s: it goes without", group, chosen[group], key)
                with read_write(cfg), open_dict(cfg):
                    del OmegaConf.select(cfg, parent)[leaf]

    def _sweep_job(self, cfg: DictConfig, out: Path, hydra_cfg: Any) -> float | None:
        """The stage with its state in ``OUT/job.json``, which the leaderboard reads."""
        status = JobStatus(hydra_cfg.job.num, tuple(_overrides(hydra_cfg)))
        write_status(out, status)
        start = time.monotonic()
        try:
            with clean_slate():
                value = self._stage(cfg, out, hydra_cfg)
        except (Exception, SystemExit) as error:
            _tell(error)
            reason = error.problems[0] if isinstance(error, UserError) else _first_line(error)
            write_status(out, _ended(status, start, error=reason))
            board = Path(hydra_cfg.sweep.dir) / "leaderboard.md"
            raise JobFailed(f"a job of the sweep failed, see {board}") from None
        except KeyboardInterrupt:
            write_status(out, _ended(status, start, error="interrupted"))
            raise
        write_status(out, _ended(status, start))
        return value


def _overrides(hydra_cfg: Any) -> list[str]:
    """The command's overrides as they were written, ``${...}`` included."""
    plain: Any = OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False)
    return plain


def _ended(status: JobStatus, start: float, *, error: str | None = None) -> JobStatus:
    seconds = round(time.monotonic() - start, 1)
    return replace(status, status="failed" if error else "done", error=error, seconds=seconds)


def _tell(error: BaseException) -> None:
    """A user's mistakes as lines; anything else is ours and shows its stack."""
    if isinstance(error, UserError):
        for line in error.lines:
            print(f"spinevl: {line}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    log.debug("the job failed", exc_info=error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


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


def _reset_torch(torch: Any) -> None:
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
