"""The tensors of some prompts that wait for their answers: packed prefix trees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spinevl.schema.batch import AttentionBlocks, with_each_tensor

if TYPE_CHECKING:  # build and evaluate import this package without torch
    import torch


@dataclass(frozen=True)
class PromptBatch:
    """N prompts in B rows of L tokens, where each shared prefix stands once.

    Attributes:
        input_ids: [B, L] token ids; 0 where a visual token or padding stands.
        visual_index: [B, L] row of the visual tokens, -1 for text and padding.
        position_ids: [B, L] depth in the tree.
        attention, attention_order, subtree_end: which tokens each token attends to, see Batch.
        last: [N] flat index (b * L + i) of each prompt's last token.
        lengths: [N] tokens of each prompt.
        contexts: what the answers attend to, in blocks: the queries are numbers of prompts, the
            keys flat indices of tokens. Each prompt is in one of them.
    """

    input_ids: torch.Tensor
    visual_index: torch.Tensor
    position_ids: torch.Tensor
    attention: tuple[AttentionBlocks, ...]
    attention_order: torch.Tensor
    last: torch.Tensor
    lengths: torch.Tensor
    contexts: tuple[AttentionBlocks, ...]
    subtree_end: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same on a device."""
        return replace(self, **with_each_tensor(self, lambda tensor: tensor.to(device)))
