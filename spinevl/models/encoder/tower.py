"""A 3D encoder with a forward pass of our own: its config, weights and layers."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from spinevl.io.json_file import read_json_object
from spinevl.io.tensors import stored_tensors
from spinevl.models.encoder.base import Encoder, state_index
from spinevl.models.held import DType, torch_dtype
from spinevl.models.source import checked_source, require_all_weights, source_folder
from spinevl.schema.errors import UserError, refused
from spinevl.schema.image_ref import Modality


def patches(volume: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """volume [B, 1, D, H, W], patch (d, h, w) -> [B, D / d, H / h, W / w, d, h, w]."""
    depth, height, width = patch
    cells = volume[:, 0].unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return cells.unflatten(1, (-1, depth)).permute(0, 1, 3, 5, 2, 4, 6)


class Tower(nn.Module):
    """volume [B, 1, D, H, W] -> hidden states; the class token comes first.

    Attributes:
        grid: patches along (slices, rows, columns).
    """

    grid: tuple[int, ...]

    @abstractmethod
    def forward(self, volume: torch.Tensor, *, depth: int) -> torch.Tensor:
        """volume [B, 1, D, H, W] -> [B, 1 + tokens, dim] after ``depth`` layers."""

    @abstractmethod
    def above(self, depth: int) -> list[nn.Module | nn.Parameter]:
        """What ``forward`` does not reach."""


class TowerEncoder(Encoder):
    """Features of a layer of a tower, which lies under ``vision_encoder`` as published.

    Args:
        path: Hugging Face id or directory with ``config.json`` and, where ``pretrained``,
            safetensors weights.
        select_layer: which layer's output, 0 the first layer's, -1 the last's.
        select_feature: ``patch`` drops the class token, ``cls_patch`` keeps it.
        pretrained: load weights; otherwise initialise at random.
        dtype: the type that weights are held in; ``assemble`` decides what ``auto`` means.

    Raises:
        UserError: a layer or feature that is not there, a config without a size, or weights that
            are missing or do not fit.
    """

    modality: Modality = "image3d"
    keys: ClassVar[tuple[str, ...]]
    """What its ``config.json`` must hold; the number of layers first, then ``hidden_size``."""

    size: tuple[int, int, int]

    def __init__(
        self,
        *,
        path: str,
        select_layer: int = -1,
        select_feature: Literal["patch", "cls_patch"] = "patch",
        pretrained: bool = True,
        dtype: DType = "float32",
    ) -> None:
        super().__init__()
        if select_feature not in ("patch", "cls_patch"):
            raise UserError(f"encoder.select_feature={select_feature}: expected patch or cls_patch")
        self.config = _config(path, self.keys)
        layers = self.config[self.keys[0]]
        self.vision_encoder = self.tower(self.config).to(torch_dtype(dtype))
        if pretrained:
            load_tower(self.vision_encoder, path, prefix="vision_encoder.")
        self.select_layer = select_layer
        self.select_feature = select_feature
        # the list of hidden states has no entry for the embeddings
        self.depth = state_index(select_layer, states=layers, layers=layers) + 1
        self.dim = self.config["hidden_size"]
        self.grid = self.vision_encoder.grid
        self.tokens = int(np.prod(self.grid)) + (select_feature == "cls_patch")

    @abstractmethod
    def tower(self, config: Mapping[str, Any]) -> Tower:
        """The tower of a config; sets ``size``, that of the volumes it reads."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, 1, D, H, W] -> [U, tokens, dim]."""
        hidden = self.vision_encoder(pixel_values, depth=self.depth)
        return hidden if self.select_feature == "cls_patch" else hidden[:, 1:]

    def unreached(self) -> list[nn.Module | nn.Parameter]:
        """The layers above the selected one, and what stands behind the last."""
        return self.vision_encoder.above(self.depth)

    def save_description(self, folder: Path) -> None:
        """Write config.json, so that ``path=folder`` rebuilds this."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _config(path: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The ``config.json`` of an encoder by Hugging Face id or directory, with ``keys`` in it."""
    folder = source_folder(path, what="encoder.path")
    with checked_source(path, what="encoder.path"):
        if not (folder / "config.json").is_file():
            raise OSError(f"no config.json in {folder}")
    config = read_json_object(folder / "config.json")
    if missing := [key for key in keys if key not in config]:
        raise refused(f"{folder / 'config.json'}", ", ".join(keys), f"no {missing[0]}", "mend it")
    return config


def load_tower(tower: nn.Module, path: str, *, prefix: str) -> None:
    """Fill a tower from the weights of an encoder that stand under ``prefix``.

    Raises:
        UserError: none there, only a pickle, or weights missing or of another shape.
    """
    stored = stored_tensors(source_folder(path, what="encoder.path"))
    names = {key.removeprefix("module."): key for key in stored}
    stored = stored.under(
        {own.removeprefix(prefix): key for own, key in names.items() if own.startswith(prefix)}
    )
    wanted = tower.state_dict()
    wrong = [k for k in wanted if k not in stored or stored.shapes[k] != wanted[k].shape]
    expected = f"weights of {len(wanted)} names under {prefix}"
    require_all_weights(f"encoder.path={path}", expected, wrong)
    with torch.no_grad():
        for key, weight in wanted.items():
            weight.copy_(stored[key])
