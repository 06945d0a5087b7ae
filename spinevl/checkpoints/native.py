"""A checkpoint folder: safetensors weights and all that is needed to build the model again.

``model.safetensors`` holds every weight under ``encoder.``, ``connector.`` and ``llm.``;
``config.json`` the parts' config nodes and the study; ``encoder/`` and ``llm/`` the parts' own
Hugging Face configs, tokenizer and image processor, so that no other directory is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spinevl.io.files import whole_folder
from spinevl.models.source import pickles_in
from spinevl.models.vlm import VLM
from spinevl.schema.errors import Problem, UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 2
DESCRIBED = ("encoder", "encoder3d", "llm")
"""Parts with a folder of their own in a checkpoint."""


def save_checkpoint(folder: Path, model: VLM, *, config: Mapping[str, Any]) -> None:
    """Write a checkpoint beside ``folder``, then rename it there; an old one is replaced.

    Args:
        folder: the checkpoint folder.
        model: the model.
        config: JSON-ready description (parts and study), kept as ``config.json``.
    """
    from safetensors.torch import save_file

    with whole_folder(folder) as beside:
        save_file(unshared(model), beside / WEIGHTS, metadata={"format": "pt"})
        for part in DESCRIBED:
            if hasattr(model, part):
                getattr(model, part).save_description(beside / part)
        text = json.dumps({"format": FORMAT, **config}, indent=2, ensure_ascii=False)
        (beside / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint, ours or another's.

    Raises:
        UserError: the folder has none, or it is no JSON object.
    """
    if not (folder / CONFIG).is_file():
        found = "no such folder" if not folder.exists() else f"no {CONFIG}"
        raise UserError(
            Problem(
                f"checkpoint={folder}",
                f"a folder with {CONFIG} and {WEIGHTS}",
                found,
                "give the checkpoint/ folder that train or run wrote, or MedM-VL's",
            )
        )
    return read_json_object(folder / CONFIG)


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError where it does not."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); the file is damaged") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object; the file is damaged")
    return content


def require_format(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError where a config is no checkpoint of ours that this version reads."""
    if config.get("format") != FORMAT:
        raise UserError(
            Problem(
                str(folder / CONFIG),
                f'"format": {FORMAT}, or "model_type": "lvlm"',
                f'"format": {config.get("format")!r}',
                "use a checkpoint that this version of spinevl wrote, or MedM-VL's",
            )
        )


def load_weights(folder: Path, model: VLM) -> None:
    """Fill a model built from the checkpoint's config; every key must fit.

    Raises:
        UserError: keys missing, surplus or of another shape, by part; or a damaged file.
    """
    fill(model, read_tensors(folder), where=str(folder / WEIGHTS))


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by name, from one safetensors file or several with an index.

    Raises:
        UserError: none there, only a pickle, a shard missing, or a file that is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and index.is_file():
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(shards.values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index}: no weight_map ({error}); copy it again") from error
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        file = folder / name
        if Path(name).name != name or not file.is_file():
            pickles = pickles_in(folder)
            found = f"only {pickles[0]}, a pickle, which is not read" if pickles else "no such file"
            fix = "save it as safetensors" if pickles else "copy it again"
            raise UserError(Problem(str(file), "safetensors weights", found, fix))
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{file}: not a whole safetensors file ({error}); copy it again"
            ) from error
    return tensors


def fill(model: VLM, stored: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Load weights by name; every one of the model's must be there, and no other.

    Raises:
        UserError: keys missing, surplus or of another shape, by part.
    """
    wanted = unshared(model)
    problems = []
    for part in dict.fromkeys(key.partition(".")[0] for key in wanted):
        own = [key for key in wanted if key.startswith(part + ".")]
        missing = sorted(key for key in own if key not in stored)
        reshaped = sorted(k for k in own if k in stored and stored[k].shape != wanted[k].shape)
        for what, keys in (("missing", missing), ("of another shape", reshaped)):
            if keys:
                problems.append(
                    f"{where}: {len(keys)} {part} weights {what}, first {keys[0]}; "
                    "the checkpoint does not belong to its config.json"
                )
    surplus = sorted(set(stored) - set(wanted))
    if surplus:
        problems.append(
            f"{where}: {len(surplus)} weights that the model lacks, first {surplus[0]}; "
            "the checkpoint does not belong to its config.json"
        )
    if problems:
        raise UserError(problems)
    model.load_state_dict(stored, strict=False)  # tied weights are stored once


def unshared(model: VLM) -> dict[str, torch.Tensor]:
    """The state dict without the second name of a tied weight, contiguous and on the CPU."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        state[name] = tensor.detach().to("cpu").contiguous()
    return state
