"""Write a checkpoint in the layout of another program, with a model card."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.config.conf import trust_of
from spinevl.io.files import whole_folder
from spinevl.schema.errors import Problem, UserError

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path) -> None:
    """Write OUT/FORMAT, or ``output_dir``; whole or not at all."""
    if not cfg.checkpoint:
        raise UserError("checkpoint is not set: give the checkpoint/ folder of a training")
    from spinevl.inference.assemble import load_model, stored_tasks
    from spinevl.models.source import checkpoint_folder
    from spinevl.report.card import card

    form = str(cfg.format)
    folder = Path(cfg.output_dir).expanduser() if cfg.output_dir else out / form
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UserError(
            Problem(f"output_dir={folder}", "a new or empty folder", "files in it", "name another")
        )
    source = checkpoint_folder(cfg.checkpoint)
    allowed = trust_of(cfg).allowed
    model, config = load_model(source, allowed=allowed)
    tasks = stored_tasks(config, allowed=allowed) if config["study"].get("task") else {}
    with whole_folder(folder) as beside:
        _write(form, beside, model, config)
        text = card(
            config,
            tasks=tasks,
            license_id=cfg.license,
            metrics=_beside(source, "metrics.json", key="controls"),
            training=_beside(source, "train.json", key="trained_parameters"),
            form=form,
        )
        (beside / "README.md").write_text(text, encoding="utf-8")
    log.info("%s export in %s", form, folder)


def _write(form: str, folder: Path, model: Any, config: dict[str, Any]) -> None:
    from spinevl.models.merge import merge_adapters

    if form == "peft":
        from spinevl.checkpoints.adapter import write_adapter

        parts = config["parts"]
        # trained from a checkpoint, the LLM is no longer the one that its path names
        published = None if config.get("parent") else parts["llm"].get("path")
        write_adapter(
            folder,
            model,
            base=published,
            encoder_trained=parts["tuning"]["encoder"] == "full",
        )
        return
    merge_adapters(model)
    if form == "hf":
        from spinevl.checkpoints.hf import write_llava

        write_llava(folder, model)
    else:
        from spinevl.checkpoints.medmvl_export import write_medmvl

        write_medmvl(folder, model)


def _beside(checkpoint: Path, name: str, *, key: str) -> Any:
    """What the run that wrote the checkpoint wrote beside it, known by a key; None without."""
    file = checkpoint.absolute().parent / name
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and key in content else None
