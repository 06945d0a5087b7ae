"""CLIP and SigLIP vision towers from Hugging Face, by id or by local directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from spinevl.models.encoder.base import Encoder
from spinevl.models.source import checked_source
from spinevl.schema.errors import UserError


class HFVisionEncoder(Encoder):
    """The hidden states of one layer of a vision transformer.

    Args:
        path: Hugging Face id or local directory (config, preprocessor and, where ``pretrained``,
            safetensors weights).
        kind: ``clip`` or ``siglip``.
        select_layer: which of the hidden states (0 the embeddings, -1 the last layer's).
        select_feature: ``patch`` drops the class token, ``cls_patch`` keeps all tokens; SigLIP has
            no class token.
        pretrained: load weights; otherwise initialise at random.

    Raises:
        UserError: an unknown kind or feature, ``patch`` with SigLIP, or nothing loadable there.
    """

    def __init__(
        self,
        *,
        path: str,
        kind: Literal["clip", "siglip"],
        select_layer: int = -2,
        select_feature: Literal["patch", "cls_patch"] = "patch",
        pretrained: bool = True,
    ) -> None:
        from transformers import (
            CLIPVisionConfig,
            CLIPVisionModel,
            SiglipVisionConfig,
            SiglipVisionModel,
        )

        super().__init__()
        if kind not in ("clip", "siglip"):
            raise UserError(f"encoder.kind={kind}: expected clip or siglip")
        if select_feature not in ("patch", "cls_patch"):
            raise UserError(f"encoder.select_feature={select_feature}: expected patch or cls_patch")
        if kind == "siglip" and select_feature == "patch":
            raise UserError(
                "encoder.select_feature=patch: SigLIP has no class token to drop; use cls_patch"
            )
        config_class: Any = CLIPVisionConfig if kind == "clip" else SiglipVisionConfig
        model_class: Any = CLIPVisionModel if kind == "clip" else SiglipVisionModel
        with checked_source(path, what="encoder.path"):
            config = config_class.from_pretrained(path)
            self.vision = (
                model_class.from_pretrained(path, config=config, use_safetensors=True)
                if pretrained
                else model_class(config)
            )
            self.processor = _image_processor(path, kind)
        self.select_layer = select_layer
        self.drops_class_token = kind == "clip" and select_feature == "patch"
        side = config.image_size // config.patch_size
        self.grid = (side, side)
        self.tokens = side**2 + (kind == "clip" and not self.drops_class_token)
        self.dim = config.hidden_size
        layers = config.num_hidden_layers
        if not -layers - 1 <= select_layer <= layers:
            raise UserError(
                f"encoder.select_layer={select_layer}: expected {-layers - 1} to {layers} "
                f"for this encoder of {layers} layers"
            )
        self.depth = select_layer if select_layer >= 0 else layers + 1 + select_layer

    def transform(self, image: np.ndarray) -> torch.Tensor:
        """uint8 [H, W] -> [3, H, W] through the encoder's own image processor."""
        rgb = Image.fromarray(image).convert("RGB")
        return self.processor(images=rgb, return_tensors="pt")["pixel_values"][0]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, 3, H, W] -> [U, tokens, dim]."""
        tower = getattr(self.vision, "vision_model", self.vision)
        hidden = tower.embeddings(pixel_values)
        if hasattr(tower, "pre_layrnorm"):  # CLIP's; transformers spells it so
            hidden = tower.pre_layrnorm(hidden)
        for layer in tower.encoder.layers[
            : self.depth
        ]:  # layers above the selected one add nothing
            hidden = layer(hidden, attention_mask=None)
        return hidden[:, 1:] if self.drops_class_token else hidden

    def identity(self) -> str:
        """See Encoder; with the tower's config and the image processor's."""
        config = self.vision.config.to_json_string()
        return "\n".join([super().identity(), config, self.processor.to_json_string()])

    def save_description(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json, so that ``path=folder`` rebuilds this."""
        self.vision.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _image_processor(path: str, kind: str) -> Any:
    """The PIL image processor of an encoder; the torchvision ones need another package."""
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    processor: Any = CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil
    return processor.from_pretrained(path)
