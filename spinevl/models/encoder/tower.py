"""What the encoders with a forward pass of our own share: their config, weights and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from spinevl.models.checkpoint import read_json_object, read_tensors
from spinevl.models.source import checked_source, checkpoint_folder
from spinevl.schema.errors import Problem, UserError


def read_tower_config(path: str, *, keys: Sequence[str]) -> dict[str, Any]:
    """The ``config.json`` of an encoder by Hugging Face id or directory, with ``keys`` in it."""
    folder = checkpoint_folder(path)
    with checked_source(path, what="encoder.path"):
        if not (folder / "config.json").is_file():
            raise OSError(f"no config.json in {folder}")
    config = read_json_object(folder / "config.json")
    if missing := [key for key in keys if key not in config]:
        raise UserError(
            Problem(f"{folder / 'config.json'}", ", ".join(keys), f"no {missing[0]}", "mend it")
        )
    return config


def load_tower(tower: nn.Module, path: str, *, prefix: str) -> None:
    """Fill a tower from the weights of an encoder that stand under ``prefix``.

    Raises:
        UserError: none there, only a pickle, or weights missing or of another shape.
    """
    stored = {
        key.removeprefix("module.").removeprefix(prefix): tensor
        for key, tensor in read_tensors(checkpoint_folder(path)).items()
        if key.removeprefix("module.").startswith(prefix)
    }
    wanted = tower.state_dict()
    wrong = [k for k in wanted if k not in stored or stored[k].shape != wanted[k].shape]
    if wrong:
        raise UserError(
            Problem(
                f"encoder.path={path}",
                f"weights of {len(wanted)} names under {prefix}",
                f"{len(wrong)} missing or of another shape, first {wrong[0]}",
                "check that the weights belong to its config.json",
            )
        )
    tower.load_state_dict({key: stored[key].float() for key in wanted})


def require_feature(select_feature: str) -> None:
    """Raise UserError where ``select_feature`` is neither ``patch`` nor ``cls_patch``."""
    if select_feature not in ("patch", "cls_patch"):
        raise UserError(f"encoder.select_feature={select_feature}: expected patch or cls_patch")


def selected_depth(select_layer: int, layers: int) -> int:
    """How many layers to compute where hidden states have no entry of the embeddings."""
    if not -layers <= select_layer < layers:
        raise UserError(
            f"encoder.select_layer={select_layer}: expected {-layers} to {layers - 1} "
            f"for this encoder of {layers} layers"
        )
    return select_layer % layers + 1
