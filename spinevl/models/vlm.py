"""encoder -> connector -> splice -> LLM."""

from __future__ import annotations

import torch
from torch import nn

from spinevl.models.encoder.base import Encoder, encode_alike
from spinevl.models.llm import CausalLM
from spinevl.models.splice import splice
from spinevl.models.tree_attention import Tree
from spinevl.schema.batch import Batch


class VLM(nn.Module):
    """A vision-language model of three parts.

    Args:
        encoder: pixels [U, C, H, W] -> features [U, N, encoder.dim].
        connector: features -> visual tokens [U, connector.tokens, llm.dim].
        llm: the decoder.
    """

    def __init__(self, encoder: Encoder, connector: nn.Module, llm: CausalLM) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.llm = llm

    @property
    def tokens_per_image(self) -> int:
        """Visual tokens that one image becomes."""
        return int(self.connector.tokens)  # type: ignore[arg-type]

    @property
    def encoder_learns(self) -> bool:
        """Whether any weight of the encoder is trained."""
        return any(parameter.requires_grad for parameter in self.encoder.parameters())

    def visual_tokens(
        self, pixel_values: torch.Tensor, features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """pixel_values [U, C, H, W], or their features where given -> [U, N, llm.dim]."""
        if features is None and self.encoder_learns:
            features = self.encoder(pixel_values)
        elif features is None:
            features = encode_alike(self.encoder, pixel_values)
        return self.connector(features)

    def target_logprobs(self, batch: Batch, visual_tokens: torch.Tensor) -> torch.Tensor:
        """The log-probability of every target token, float32 [T].

        Args:
            batch: what to read and what to predict.
            visual_tokens: [U, N, llm.dim] of the batch's images.
        """
        # 1. embed the text, put the images among it                              [B, L, D]
        embeddings = splice(self.llm.embed(batch.input_ids), visual_tokens, batch.visual_index)
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
        visual_tokens = self.visual_tokens(batch.pixel_values, batch.features)
        return self.target_logprobs(batch, visual_tokens)


def sequence_logprobs(target_logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum the targets of each sequence: [T] -> [S], the log-probability of each answer text."""
    sums = target_logprobs.new_zeros(len(batch.sequence_weight))
    return sums.index_add(0, batch.target_sequence, target_logprobs)
