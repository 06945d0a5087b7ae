"""CLIP, SigLIP, SigLIP 2 and DINOv2 from Hugging Face, by id or by local directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from spinevl.models.encoder.base import Encoder, state_index
from spinevl.models.encoder.positions import interpolate_by_matrices
from spinevl.models.held import DType, torch_dtype
from spinevl.models.source import checked_source, pretrained_model, refuse_kernels
from spinevl.schema.errors import UserError, refused

Kind = Literal["clip", "siglip", "siglip2", "dinov2"]

# kind -> what its config.json may call itself, the whole model or its vision tower
_MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "clip": ("clip", "clip_vision_model"),
    "siglip": ("siglip", "siglip_vision_model"),
    "siglip2": ("siglip", "siglip_vision_model"),
    "dinov2": ("dinov2", "dinov2_with_registers"),
}
# kind -> (config, model and image processor of transformers); the
# processors are those of Pillow, for the others need torchvision
_CLASSES: dict[str, tuple[str, str, str]] = {
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", "CLIPImageProcessorPil"),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", "SiglipImageProcessorPil"),
    # at a fixed resolution SigLIP 2 is SigLIP with other weights
    "siglip2": ("SiglipVisionConfig", "SiglipVisionModel", "SiglipImageProcessorPil"),
    "dinov2": ("Dinov2Config", "Dinov2Model", "BitImageProcessorPil"),
}


class HFVisionEncoder(Encoder):
    """The hidden states of one layer of a vision transformer.

    Args:
        path: Hugging Face id or local directory (config, preprocessor and, where ``pretrained``,
            safetensors weights); a directory of the whole CLIP or SigLIP will do.
        kind: ``clip``, ``siglip``, ``siglip2`` (of a fixed resolution) or ``dinov2`` (with or
            without registers).
        select_layer: which of the hidden states (0 the embeddings, -1 the last layer's).
        select_feature: ``patch`` drops the class token (and registers), ``cls_patch`` keeps all
            tokens; SigLIP has no class token.
        pretrained: load weights; otherwise initialise at random.
        dtype: the type that weights are held in; ``assemble`` decides what ``auto`` means.

    Raises:
        UserError: an unknown kind or feature, ``patch`` with SigLIP, a model of another kind or
            without a fixed resolution, nothing loadable there, or weights that are missing or do
            not fit.
    """

    def __init__(
        self,
        *,
        path: str,
        kind: Kind,
        select_layer: int = -2,
        select_feature: Literal["patch", "cls_patch"] = "patch",
        pretrained: bool = True,
        dtype: DType = "float32",
    ) -> None:
        super().__init__()
        if kind not in _CLASSES:
            raise UserError(f"encoder.kind={kind}: expected {', '.join(_CLASSES)}")
        if select_feature not in ("patch", "cls_patch"):
            raise UserError(f"encoder.select_feature={select_feature}: expected patch or cls_patch")
        if kind.startswith("siglip") and select_feature == "patch":
            raise UserError(
                "encoder.select_feature=patch: SigLIP has no class token to drop; use cls_patch"
            )
        with checked_source(path, what="encoder.path"):
            config_class, model_class, processor_class = _classes(path, kind)
            config = config_class.from_pretrained(path)
            refuse_kernels(config, what="encoder.path", path=path)
            self.vision = (
                pretrained_model(model_class, path, what="encoder.path", dtype=dtype, config=config)
                if pretrained
                else model_class(config).to(torch_dtype(dtype))
            )
            self.processor = processor_class.from_pretrained(path)
        if kind == "dinov2":
            antialias = config.model_type == "dinov2_with_registers"
            interpolate_by_matrices(self.vision.embeddings, antialias=antialias)
        self.kind = kind
        self.select_layer = select_layer
        self.select_feature = select_feature
        special = 0 if kind.startswith("siglip") else 1 + getattr(config, "num_register_tokens", 0)
        self.dropped = special if select_feature == "patch" else 0
        self.side = self._side(config, path)
        cells = self.side // config.patch_size
        self.grid: tuple[int, ...] = (cells, cells)
        self.tokens = cells**2 + special - self.dropped
        self.dim = config.hidden_size
        layers = config.num_hidden_layers
        self.depth = state_index(select_layer, states=layers + 1, layers=layers)

    def _side(self, config: Any, path: str) -> int:
        """The side in pixels of what the image processor makes."""
        if self.kind != "dinov2":
            return int(config.image_size)
        # DINOv2 interpolates its positions: the processor, not the weights, decides
        made = self.processor.crop_size if self.processor.do_center_crop else self.processor.size
        if made.height is None or made.height != made.width:
            raise refused(
                f"encoder.path={path}",
                "an image processor that makes squares of one size",
                f"{dict(made)}",
                "set do_center_crop and crop_size in its preprocessor_config.json",
            )
        return int(made.height)

    def transform(self, image: np.ndarray) -> torch.Tensor:
        """uint8 [H, W] or [H, W, 3] -> [3, H, W] through the encoder's own image processor.

        Raises:
            UserError: the processor makes images of another size than the tower reads.
        """
        rgb = Image.fromarray(image).convert("RGB")
        pixels = self.processor(images=rgb, return_tensors="pt")["pixel_values"][0]
        if pixels.shape[1:] != (self.side, self.side):
            raise refused(
                "encoder.path",
                f"an image processor that makes {self.side} x {self.side} pixels",
                f"{pixels.shape[2]} x {pixels.shape[1]}",
                "mend size or crop_size in its preprocessor_config.json",
            )
        return pixels

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [U, 3, H, W] -> [U, tokens, dim]."""
        tower = self._tower
        hidden = tower.embeddings(pixel_values)
        if hasattr(tower, "pre_layrnorm"):  # CLIP's; transformers spells it so
            hidden = tower.pre_layrnorm(hidden)
        # DINOv2's layers took no mask in the first versions of transformers 5
        mask: dict[str, Any] = {} if self.kind == "dinov2" else {"attention_mask": None}
        for layer in self._layers[: self.depth]:  # layers above the selected one add nothing
            hidden = layer(hidden, **mask)
        return hidden[:, self.dropped :]

    def unreached(self) -> list[nn.Module | nn.Parameter]:
        """The layers above the selected one, the final norm, a pooling head and the mask token."""
        tower = self._tower
        after = [getattr(tower, name, None) for name in ("post_layernorm", "layernorm", "head")]
        after.append(getattr(tower.embeddings, "mask_token", None))
        return [*self._layers[self.depth :], *(one for one in after if one is not None)]

    @property
    def _tower(self) -> Any:
        return getattr(self.vision, "vision_model", self.vision)

    @property
    def _layers(self) -> Any:
        encoder = self._tower.encoder
        return encoder.layer if self.kind == "dinov2" else encoder.layers

    def identity(self) -> str:
        """See Encoder; with the tower's config and the image processor's."""
        config = self.vision.config.to_json_string()
        return "\n".join([super().identity(), config, self.processor.to_json_string()])

    def save_description(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json, so that ``path=folder`` rebuilds this."""
        self.vision.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _classes(path: str, kind: str) -> tuple[Any, Any, Any]:
    """The classes of a kind, after checking that the directory holds that kind."""
    import transformers

    content, _ = transformers.PretrainedConfig.get_config_dict(path)
    model_type = str(content.get("model_type", ""))
    names = _CLASSES[kind]
    if model_type.startswith("siglip2"):
        raise UserError(
            f"encoder.path={path}: a NaFlex model, whose images have no fixed number of tokens; "
            "choose one of a fixed resolution, such as google/siglip2-base-patch16-256"
        )
    if model_type not in _MODEL_TYPES[kind]:
        # the names of the weights overlap: loaded as another kind, parts would stay random
        right = [other for other, types in _MODEL_TYPES.items() if model_type in types]
        raise refused(
            f"encoder.path={path}",
            f"a config.json of model_type {' or '.join(_MODEL_TYPES[kind])}",
            model_type or "none",
            f"set encoder.kind={right[0]}" if right else "choose another path",
        )
    if model_type == "dinov2_with_registers":
        names = ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", names[2])
    config, model, processor = (getattr(transformers, name) for name in names)
    return config, model, processor
