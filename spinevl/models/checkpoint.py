"""A checkpoint folder: safetensors weights and all that is needed to build the model again.

``model.safetensors`` holds every weight under ``encoder.``, ``connector.`` and ``llm.``;
``config.json`` the parts' config nodes and the study; ``encoder/`` and ``llm/`` the parts' own
Hugging Face configs, tokenizer and image processor, so that no other directory is needed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spinevl.models.vlm import VLM
from spinevl.schema.errors import Problem, UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 2


def save_checkpoint(folder: Path, model: VLM, *, config: Mapping[str, Any]) -> None:
    """Write a checkpoint beside ``folder``, then rename it there; an old one is replaced.

    Args:
        folder: the checkpoint folder.
        model: the model.
        config: JSON-ready description (parts and study), kept as ``config.json``.
    """
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    beside.chmod(0o755)
    try:
        save_file(_unshared(model), beside / WEIGHTS, metadata={"format": "pt"})
        model.encoder.save_description(beside / "encoder")
        model.llm.save_description(beside / "llm")
        text = json.dumps({"format": FORMAT, **config}, indent=2, ensure_ascii=False)
        (beside / CONFIG).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            beside.rename(folder)
            shutil.rmtree(old)
        else:
            beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint. Raises UserError where the folder is none."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(
            Problem(
                f"checkpoint={folder}",
                f"a folder with {CONFIG} and {WEIGHTS}",
                "no such folder" if not folder.exists() else "neither or one of them",
                "give the checkpoint/ folder that train or run wrote",
            )
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: not JSON ({error}); the file is damaged") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(
            Problem(
                str(folder / CONFIG),
                f'"format": {FORMAT}',
                repr(config.get("format") if isinstance(config, dict) else config),
                "use a checkpoint that this version of spinevl wrote",
            )
        )
    return config


def load_weights(folder: Path, model: VLM) -> None:
    """Fill a model built from the checkpoint's config; every key must fit.

    Raises:
        UserError: keys missing, surplus or of another shape, by part; or a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{folder / WEIGHTS}: not a whole safetensors file ({error}); copy it again"
        ) from error
    wanted = _unshared(model)
    problems = []
    for part in ("encoder", "connector", "llm"):
        missing = sorted(k for k in wanted if k.startswith(part + ".") and k not in stored)
        reshaped = sorted(
            k
            for k in wanted
            if k.startswith(part + ".") and k in stored and stored[k].shape != wanted[k].shape
        )
        for what, keys in (("missing", missing), ("of another shape", reshaped)):
            if keys:
                problems.append(
                    f"{folder / WEIGHTS}: {len(keys)} {part} weights {what}, first {keys[0]}; "
                    "the checkpoint does not belong to its config.json"
                )
    surplus = sorted(set(stored) - set(wanted))
    if surplus:
        problems.append(
            f"{folder / WEIGHTS}: {len(surplus)} weights that the model lacks, first {surplus[0]}; "
            "the checkpoint does not belong to its config.json"
        )
    if problems:
        raise UserError(problems)
    model.load_state_dict(stored, strict=False)  # tied weights are stored once


def _unshared(model: VLM) -> dict[str, torch.Tensor]:
    """The state dict without the second name of a tied weight, contiguous and on the CPU."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        state[name] = tensor.detach().to("cpu").contiguous()
    return state
