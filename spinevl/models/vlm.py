"""encoder -> connector -> splice -> LLM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder, encode_in_fixed_batches
from spinevl.models.llm import CausalLM
from spinevl.models.prefix_attention import Tree
from spinevl.models.splice import splice
from spinevl.schema.batch import Batch
from spinevl.schema.image_ref import Modality


class VLM(nn.Module):
    """A vision-language model: one or two encoders with their connectors, and an LLM.

    Args:
        encoder: pixels [U, C, (D,) H, W] -> features [U, N, encoder.dim].
        connector: features -> visual tokens [U, connector.tokens, llm.dim].
        llm: the decoder.
        encoder3d, connector3d: the same for volumes, beside an encoder of 2D images.
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

    def vision_branches(self) -> dict[Modality, tuple[Encoder, Connector]]:
        """The encoder and connector of each modality that the model sees."""
        found: dict[Modality, tuple[Encoder, Connector]] = {
            self.encoder.modality: (self.encoder, self.connector)
        }
        if hasattr(self, "encoder3d"):
            found[self.encoder3d.modality] = (self.encoder3d, self.connector3d)  # type: ignore[assignment]
        return found

    @property
    def encoder_learns(self) -> bool:
        """Whether any weight of the encoder is trained."""
        return learns(self.encoder)

    def visual_tokens(
        self,
        pixel_values: torch.Tensor,
        features: torch.Tensor | None = None,
        *,
        modality: Modality | None = None,
    ) -> torch.Tensor:
        """Images of one modality, or their features where given -> [U, N, llm.dim]."""
        encoder, connector = self.vision_branches()[modality or self.encoder.modality]
        if features is None and learns(encoder):
            features = encoder(pixel_values)
        elif features is None:
            features = encode_in_fixed_batches(encoder, pixel_values)
        return connector(features)

    def encode_images(self, batch: Batch) -> list[torch.Tensor]:
        """The visual tokens [U, N, llm.dim] of a batch's images, 2D images first."""
        given: tuple[tuple[Modality, torch.Tensor, torch.Tensor | None], ...] = (
            ("image", batch.pixel_values, batch.features),
            ("image3d", batch.volumes, batch.volume_features),
        )
        return [
            self.visual_tokens(pixels, features, modality=modality)
            for modality, pixels, features in given
            if features is not None or pixels.numel()
        ]

    def target_logprobs(self, batch: Batch, visual_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """The log-probability of every target token, float32 [T].

        Args:
            batch: what to read and what to predict.
            visual_tokens: [U, N, llm.dim] of the batch's images, as ``look`` gives them.
        """
        # 1. embed the text, put the images among it                              [B, L, D]
        text = self.llm.embed(batch.input_ids)
        embeddings = splice(text, visual_rows(visual_tokens, like=text), batch.visual_index)
        # 2. a token sees its own sequence only, in blocks                        n [Q, K]
        tree = Tree.of(batch.attention, batch.attention_order, dtype=embeddings.dtype)
        # 3. read every shared token once                                         [B, L, D]
        hidden = self.llm.hidden(embeddings, tree, batch.position_ids)
        # 4. logits only where something is predicted, once for all options       [R, V]
        logits = self.llm.logits(hidden.flatten(0, 1).index_select(0, batch.predicting))
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        return logprobs[batch.target_row, batch.target_id]

    def forward(self, batch: Batch) -> torch.Tensor:
        """The log-probability of every target token of a batch, float32 [T]."""
        return self.target_logprobs(batch, self.encode_images(batch))


def learns(part: nn.Module) -> bool:
    """Whether any weight is trained."""
    return any(parameter.requires_grad for parameter in part.parameters())


def visual_rows(visual_tokens: Sequence[torch.Tensor], *, like: torch.Tensor) -> torch.Tensor:
    """The visual tokens of all images one below the other: some [U, N, D] -> [R, D]."""
    if not visual_tokens:
        return like.new_zeros(0, like.shape[-1])
    return torch.cat([tokens.flatten(0, 1) for tokens in visual_tokens])


def sequence_logprobs(target_logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum the targets of each sequence: [T] -> [S], the log-probability of each answer text."""
    sums = target_logprobs.new_zeros(len(batch.sequence_weight))
    return sums.index_add(0, batch.target_sequence, target_logprobs)
