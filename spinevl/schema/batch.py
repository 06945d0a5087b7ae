"""The tensors of one step: packed prefix trees, their images and what is learned or scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # build and evaluate import this package without torch
    import torch


FLEX_TILE = 128
"""Queries and keys of a tile of FlexAttention; rows for it are padded to whole tiles."""


@dataclass(frozen=True)
class Chains:
    """Attention blocks that are chains of tokens, one behind the other, without padding.

    Each query attends to the keys of its block up to its own place, where the last q of its k keys
    are the queries themselves.

    Attributes:
        query: [Tq] flat index (b * L + i) of each query.
        key: [Tk] flat index of each key.
        query_start, key_start: [n + 1] int32, where the queries and keys of each block begin.
        most_queries, most_keys: of a block.
    """

    query: torch.Tensor
    key: torch.Tensor
    query_start: torch.Tensor
    key_start: torch.Tensor
    most_queries: int
    most_keys: int

    def allowed(self, queries: int, keys: int) -> torch.Tensor:
        """[n, queries, keys] bool, whether a query attends to a key, see AttentionBlocks."""
        import torch

        own, all_keys = (one.diff()[:, None, None] for one in (self.query_start, self.key_start))
        device = self.query_start.device
        row = torch.arange(queries, device=device)[:, None]
        column = torch.arange(keys, device=device)
        return torch.where(row < own, column <= row + (all_keys - own), column == 0)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Chains:
        """The same with ``change`` made to each tensor."""
        return replace(
            self,
            query=change(self.query),
            key=change(self.key),
            query_start=change(self.query_start),
            key_start=change(self.key_start),
        )


@dataclass(frozen=True)
class AttentionBlocks:
    """n attention blocks of similar size: the queries, and the keys that each may attend to.

    Attributes:
        query: [n, q] flat index (b * L + i) of each query, padded.
        key: [n, k] flat index of each key, padded.
        mask: [n, q, k] bool, whether the query attends to the key; None where ``chains`` tell.
        chains: the same without padding, where all blocks are chains.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    chains: Chains | None = None

    @property
    def allowed(self) -> torch.Tensor:
        """[n, q, k] bool, whether the query attends to the key; padding attends to the first."""
        if self.mask is not None:
            return self.mask
        assert self.chains is not None
        return self.chains.allowed(self.query.shape[1], self.key.shape[1])

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> AttentionBlocks:
        """The same with ``change`` made to each tensor."""
        mask = None if self.mask is None else change(self.mask)
        chains = None if self.chains is None else self.chains.each(change)
        return AttentionBlocks(change(self.query), change(self.key), mask, chains)


@dataclass(frozen=True)
class Batch:
    """Rows of tokens; a row holds prefix trees in preorder, where each shared token stands once.

    A token attends to its ancestors in its tree and to itself. B rows, L tokens a row, U unique
    images of N visual tokens and V unique volumes of M, T targets, S sequences, Q questions, A
    targets of auxiliary heads.

    Attributes:
        input_ids: [B, L] token ids; 0 where a visual token or padding stands.
        visual_index: [B, L] row of the visual tokens [U * N + V * M], -1 for text and padding.
        position_ids: [B, L] depth in the tree.
        attention: which tokens each token attends to, in blocks; none where ``subtree_end`` says.
        attention_order: [B * L] where each token's output stands in the blocks' outputs.
        subtree_end: [B, L] one past the last place of each token's subtree; None with blocks.
        pixel_values: [U, C, H, W] images after the encoder's transform; [0] where there are
            ``features``.
        features: [U, N, dim] what the encoder made of the images earlier; None without a cache.
        volumes: [V, C, D, H, W] volumes after their encoder's transform; [0] as ``pixel_values``.
        volume_features: [V, N, dim] the same of the volumes.
        shiftable: [U] bool, whether an image may be shifted (False where boxes are asked of it).
        predicting: [R] flat index (b * L + i) of each token that predicts anything.
        allowed: [R, W] the tokens that each of them chooses from, padded with -1; None is the whole
            vocabulary.
        target_row: [T] which of them predicts a target.
        target_id: [T] the token to predict.
        target_sequence: [T] which sequence it belongs to.
        target_weight: [T] its loss weight: task x class, of an answer's every token or shared by
            them (LossMean).
        sequence_question: [S] which question a sequence answers.
        auxiliary_image, auxiliary_head, auxiliary_label: [A] image, head and class of each target
            of an auxiliary head.
        auxiliary_weight: [A] its loss weight.
        answer_divisor, auxiliary_divisor: what the next-token and the auxiliary loss of a step are
            divided by: its answers (or their tokens) and auxiliary targets, on average where a step
            has several batches. Of the targets there may be none.
        questions: the dataset's index of each of the Q questions.
        sequence_label: the choice of each sequence where options are scored.
        tokens: real tokens in ``input_ids``.
        sequence_tokens: tokens that the same sequences hold one by one, prefixes not shared.
        image_numbers: what tells each of the U images from the others of the training; 0 for all
            where nothing is trained.
        number: of the batch in the training, from 0; the same on every rank.
    """

    input_ids: torch.Tensor
    visual_index: torch.Tensor
    position_ids: torch.Tensor
    attention: tuple[AttentionBlocks, ...]
    attention_order: torch.Tensor
    pixel_values: torch.Tensor
    features: torch.Tensor | None
    volumes: torch.Tensor
    volume_features: torch.Tensor | None
    shiftable: torch.Tensor
    predicting: torch.Tensor
    target_row: torch.Tensor
    target_id: torch.Tensor
    target_sequence: torch.Tensor
    target_weight: torch.Tensor
    sequence_question: torch.Tensor
    auxiliary_image: torch.Tensor
    auxiliary_head: torch.Tensor
    auxiliary_label: torch.Tensor
    auxiliary_weight: torch.Tensor
    answer_divisor: float
    auxiliary_divisor: float
    questions: tuple[int, ...]
    sequence_label: tuple[int, ...]
    tokens: int
    sequence_tokens: int
    image_numbers: tuple[int, ...] = ()
    number: int = 0
    allowed: torch.Tensor | None = None
    subtree_end: torch.Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def without_inputs(self) -> Batch:
        """The same batch without what the model reads; what its answers belong to stays."""
        empty = self.pixel_values.new_zeros(0)
        return replace(
            self,
            pixel_values=empty,
            features=None,
            volumes=empty,
            volume_features=None,
            attention=(),
            attention_order=empty,
            subtree_end=None,
        )

    def blank(self) -> Batch:
        """The same for a rank that has no share of a batch: the model reads it, nothing counts."""
        return replace(
            self,
            target_weight=self.target_weight * 0,
            auxiliary_weight=self.auxiliary_weight * 0,
            answer_divisor=0.0,
            auxiliary_divisor=0.0,
            questions=(),
            tokens=0,
            sequence_tokens=0,
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, so that copies to a GPU overlap with its work."""
        return self.each(lambda tensor: tensor.pin_memory())

    def shared(self) -> Batch:
        """The same batch in memory that other processes share. Raises RuntimeError without room."""
        return self.each(lambda tensor: tensor.share_memory_())

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same batch with ``change`` made to each of its tensors."""
        return replace(self, **with_each_tensor(self, change))


def with_each_tensor(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """The fields of a dataclass that hold tensors or attention blocks, with ``change`` made."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed: dict[str, Any] = {n: change(v) for n, v in values.items() if hasattr(v, "device")}
    for name, value in values.items():
        if isinstance(value, tuple) and value and isinstance(value[0], AttentionBlocks):
            changed[name] = tuple(one.each(change) for one in value)
    return changed
