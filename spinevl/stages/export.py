"""Write a checkpoint in the layout of another program, with a model card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.io.files import expanded
from spinevl.io.folders import whole_folder
from spinevl.io.json_file import read_json
from spinevl.schema.errors import UserError, refused

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Write OUT/FORMAT, or ``output_dir``; whole or not at all."""
    config: Any = plain(cfg)
    if not config["checkpoint"]:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    from spinevl.checkpoints.load import FORMATS, load_checkpoint
    from spinevl.models.held import FLOAT32
    from spinevl.report.card import card
    from spinevl.report.metrics_file import TRAIN_FILE, read_metrics

    form = config["format"]
    folder = out / form  # the job's own, so that one there is what a cut job left
    if config["output_dir"]:
        folder = expanded(config["output_dir"], "output_dir")
        if folder.is_file() or (folder.exists() and any(folder.iterdir())):
            raise refused(
                f"output_dir={folder}", "a new or empty folder", "files in it", "name another"
            )
    checkpoint = load_checkpoint(config["checkpoint"], allowed=trust.allowed, held=FLOAT32)
    assert checkpoint.folder is not None
    tasks = checkpoint.tasks  # refused before anything is written
    run = checkpoint.folder.absolute().parent
    with whole_folder(folder) as beside:
        FORMATS[form].write(beside, checkpoint)
        text = card(
            checkpoint.config,
            tasks=tasks,
            license_id=config["license"],
            score=read_metrics(run),
            training=_training(run / TRAIN_FILE),
            form=form,
        )
        (beside / "README.md").write_text(text, encoding="utf-8")
    log.info("%s export in %s", form, folder)


def _training(file: Path) -> Any:
    """The ``train.json`` of the run that wrote the checkpoint; None without."""
    try:
        content = read_json(file, expected="the report of a training")
    except UserError:
        return None
    ours = isinstance(content, dict) and "trained_parameters" in content
    return content if ours else None
