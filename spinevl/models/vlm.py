"""encoder -> connector -> splice -> LLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spinevl.models import packed, products
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder, encode, encode_in_fixed_batches
from spinevl.models.llm import CausalLM
from spinevl.models.splice import splice
from spinevl.schema.batch import Batch
from spinevl.schema.image_ref import MODALITIES, Modality
from spinevl.schema.model_inputs import ModelInputs, VisionInputs


@dataclass(frozen=True)
class VisionBranch:
    """An encoder with its connector.

    Attributes:
        encoder: pixels [U, C, (D,) H, W] -> features [U, N, encoder.dim].
        connector: features -> visual tokens [U, connector.tokens, llm.dim].
    """

    encoder: Encoder
    connector: Connector


class VLM(nn.Module):
    """A vision-language model: one or two vision branches and an LLM.

    Args:
        encoder, connector: see VisionBranch.
        llm: the decoder.
        encoder3d, connector3d: a second branch for volumes, beside one for 2D images.
    """

    def __init__(
        self,
        encoder: Encoder,
        connector: Connector,
        llm: CausalLM,
        *,
        encoder3d: Encoder | None = None,
        connector3d: Connector | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.llm = llm
        if encoder3d is not None:
            self.encoder3d, self.connector3d = encoder3d, connector3d
        for branch in self.vision_branches().values():
            products.install(branch.encoder)

    def train(self, mode: bool = True) -> VLM:
        """As of nn.Module; a model with packed weights is refused before anything changes."""
        if mode:
            packed.require_unpacked(self, "be trained")
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        for one in self.modules():
            if isinstance(one, packed.PackedLinear):
                one.require_the_same(fn)
        return super()._apply(fn, recurse)

    def compute_plainly(self, plain: bool) -> None:
        """Compute all layers as their libraries do, or in faster ways; see CausalLM.

        Kept features of plain and of faster layers are separate, see Encoder.identity.
        """
        self.llm.plain_layers = plain
        for branch in self.vision_branches().values():
            branch.encoder.plain_layers = plain

    def vision_branches(self) -> dict[Modality, VisionBranch]:
        """The encoder and connector of each modality that the model reads."""
        branches = [VisionBranch(self.encoder, self.connector)]
        if hasattr(self, "encoder3d"):
            branches.append(VisionBranch(self.encoder3d, self.connector3d))  # type: ignore[arg-type]
        return {branch.encoder.modality: branch for branch in branches}

    def inputs(self) -> ModelInputs:
        """What the batches of this model are laid out for."""
        return ModelInputs(
            tokenizer=self.llm.tokenizer,
            conversation=self.llm.conversation,
            end_token=self.llm.end_token,
            max_length=self.llm.max_length,
            vision={
                modality: VisionInputs(branch.connector.tokens, branch.encoder.transform)
                for modality, branch in self.vision_branches().items()
            },
        )

    def visual_tokens(
        self,
        pixel_values: torch.Tensor,
        features: torch.Tensor | None = None,
        *,
        modality: Modality | None = None,
    ) -> torch.Tensor:
        """Images of one modality, or their features where given -> [U, N, llm.dim]."""
        branch = self.vision_branches()[modality or self.encoder.modality]
        if features is None and learns(branch.encoder):
            features = encode(branch.encoder, pixel_values)
        elif features is None:
            features = encode_in_fixed_batches(branch.encoder, pixel_values)
        weight = next(branch.connector.parameters(), None)
        return branch.connector(features if weight is None else features.to(weight.dtype))

    def encode_images(self, batch: Batch) -> list[torch.Tensor]:
        """The visual tokens [U, N, llm.dim] of a batch's images, 2D images first."""
        pixels = (batch.pixel_values, batch.volumes)
        features = (batch.features, batch.volume_features)
        return [
            self.visual_tokens(own_pixels, own_features, modality=modality)
            for modality, own_pixels, own_features in zip(MODALITIES, pixels, features, strict=True)
            if own_features is not None or own_pixels.numel()
        ]

    def target_logprobs(self, batch: Batch, visual_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """The log-probability of every target token, float32 [T].

        Args:
            batch: its tokens and targets.
            visual_tokens: [U, N, llm.dim] of the batch's images, as ``encode_images`` gives them.
        """
        # 1. embed the text, splice the visual tokens in                          [B, L, D]
        text = self.llm.embed(batch.input_ids)
        embeddings = splice(text, visual_rows(visual_tokens), batch.visual_index)
        # 2. masks: a token attends to its own sequence only, block by block      n [Q, K]
        masks = self.llm.masks(batch, dtype=embeddings.dtype)
        # 3. forward pass; a shared prefix is computed once                       [B, L, D]
        hidden = self.llm.hidden(embeddings, masks, batch.position_ids, batch.predicting)
        # 4. logits only where a token is predicted, once for all options         [R, V]
        hidden = hidden.flatten(0, 1).index_select(0, batch.predicting)
        if batch.allowed is None:
            return self.llm.logprobs(hidden, batch.target_row, batch.target_id)
        #    or of the tokens that the options allow, and of no others            [R, W]
        logits = self.llm.logits_of(hidden, batch.allowed.clamp(min=0))
        logits = logits.masked_fill(batch.allowed < 0, -torch.inf)
        chosen = batch.allowed[batch.target_row] == batch.target_id[:, None]
        logprobs = torch.log_softmax(logits, dim=-1)[batch.target_row]
        return logprobs.gather(1, chosen.int().argmax(1, keepdim=True))[:, 0]

    def forward(self, batch: Batch) -> torch.Tensor:
        """The log-probability of every target token of a batch, float32 [T]."""
        return self.target_logprobs(batch, self.encode_images(batch))


def learns(part: nn.Module) -> bool:
    """Whether any weight is trained."""
    return any(parameter.requires_grad for parameter in part.parameters())


def visual_rows(visual_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
    """The visual tokens of all images one below the other: several [U, N, D] -> [R, D]."""
    rows = [tokens.flatten(0, 1) for tokens in visual_tokens]
    return torch.cat(rows) if rows else torch.zeros(0)


def sequence_logprobs(target_logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum the targets of each sequence: [T] -> [S], the log-probability of each answer text."""
    sums = target_logprobs.new_zeros(len(batch.sequence_question))
    return sums.index_add(0, batch.target_sequence, target_logprobs)
