"""One job: what Hydra calls with the composed config, alone or as part of a sweep."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from spinevl.config.compose import check, register
from spinevl.io.files import write_text_atomic
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)

JOB_FILE = "job.json"

# A worker process of a parallel launcher knows our schemas and resolvers only through this import.
register()


class JobFailed(Exception):
    """A job of a sweep failed and has said why; a string only, so that it crosses processes."""


@dataclass(frozen=True)
class Job:
    """The task function of a verb; a class, so that launchers can pickle it."""

    verb: str

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run the stage. Returns what it returns: the score that a sweeper optimises.

        Raises:
            SystemExit: a single job failed, its problems or its traceback are printed.
            JobFailed: the same for a job of a sweep; the others go on.
        """
        hydra_cfg = HydraConfig.get()
        out = Path(hydra_cfg.runtime.output_dir)
        _import_beside(hydra_cfg)
        if hydra_cfg.mode == RunMode.MULTIRUN:
            return self._sweep_job(cfg, out, hydra_cfg)
        try:
            return self._stage(cfg, out, hydra_cfg)
        except Exception as error:
            _tell(error)
            raise SystemExit(1) from None

    def _stage(self, cfg: DictConfig, out: Path, hydra_cfg: Any) -> float | None:
        check(cfg, overrides=_overrides(hydra_cfg))
        stage = importlib.import_module(f"spinevl.stages.{self.verb}")
        return stage.main(cfg, out=out)

    def _sweep_job(self, cfg: DictConfig, out: Path, hydra_cfg: Any) -> float | None:
        """The stage with its state in ``OUT/job.json``, which the leaderboard reads."""
        state: dict[str, Any] = {
            "number": hydra_cfg.job.num,
            "overrides": _overrides(hydra_cfg),
            "status": "running",
            "error": None,
            "seconds": None,
        }
        _write(out, state)
        start = time.monotonic()
        try:
            with clean_slate():
                value = self._stage(cfg, out, hydra_cfg)
        except (Exception, SystemExit) as error:
            _tell(error)
            reason = error.problems[0] if isinstance(error, UserError) else _first_line(error)
            _write(out, state | _ended("failed", start) | {"error": reason})
            board = Path(hydra_cfg.sweep.dir) / "leaderboard.md"
            raise JobFailed(f"a job of the sweep failed, see {board}") from None
        except KeyboardInterrupt:
            _write(out, state | _ended("failed", start) | {"error": "interrupted"})
            raise
        _write(out, state | _ended("done", start))
        return value


def _overrides(hydra_cfg: Any) -> list[str]:
    """The command's overrides as they were written, ``${...}`` included."""
    plain: Any = OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False)
    return plain


def _ended(status: str, start: float) -> dict[str, Any]:
    return {"status": status, "seconds": round(time.monotonic() - start, 1)}


def _write(out: Path, state: dict[str, Any]) -> None:
    write_text_atomic(out / JOB_FILE, json.dumps(state, indent=2, ensure_ascii=False) + "\n")


def _tell(error: BaseException) -> None:
    """A user's mistakes as lines; anything else is ours and shows its stack."""
    if isinstance(error, UserError):
        for problem in error.problems:
            print(f"spinevl: {problem}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    log.debug("the job failed", exc_info=error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _import_beside(hydra_cfg: Any) -> None:
    """Make the Python in and beside a user's ``--config-dir`` importable.

    At the end of the path: a user's folder never hides an installed package.
    """
    for source in hydra_cfg.runtime.config_sources:
        if source.provider == "command-line" and source.schema == "file":
            for folder in (source.path, str(Path(source.path).parent)):
                if folder not in sys.path:
                    sys.path.append(folder)


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
