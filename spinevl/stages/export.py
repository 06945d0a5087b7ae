"""Write a checkpoint in the layout of another program, with a model card."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.io.files import whole_folder
from spinevl.schema.errors import Problem, UserError

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path) -> None:
    """Write OUT/FORMAT, or ``output_dir``; whole or not at all."""
    if not cfg.checkpoint:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    from spinevl.checkpoints.load import FORMATS, load_checkpoint
    from spinevl.report.card import card

    form = str(cfg.format)
    folder = Path(cfg.output_dir).expanduser() if cfg.output_dir else out / form
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UserError(
            Problem(f"output_dir={folder}", "a new or empty folder", "files in it", "name another")
        )
    checkpoint = load_checkpoint(str(cfg.checkpoint), trusted=list(cfg.trusted_targets))
    assert checkpoint.folder is not None
    run = checkpoint.folder.absolute().parent
    with whole_folder(folder) as beside:
        FORMATS[form].write(beside, checkpoint)
        text = card(
            checkpoint.config,
            tasks=checkpoint.tasks,
            license_id=cfg.license,
            metrics=_written_by_run(run / "metrics.json", key="controls"),
            training=_written_by_run(run / "train.json", key="trained_parameters"),
            form=form,
        )
        (beside / "README.md").write_text(text, encoding="utf-8")
    log.info("%s export in %s", form, folder)


def _written_by_run(file: Path, *, key: str) -> Any:
    """A file of the run that wrote the checkpoint, recognised by a key; None without."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and key in content else None
