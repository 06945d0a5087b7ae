"""The tensors of one step: packed prefix trees, their images and what is learned or scored."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # build and evaluate import this package without torch
    import torch


@dataclass(frozen=True)
class Batch:
    """Several rows; each row holds the questions of one patient as a prefix tree in preorder.

    A token attends to its ancestors and itself: token j is one of i exactly where
    ``j <= i < subtree_end[j]``. B rows, L tokens a row, U unique images, T targets, S sequences,
    Q questions, A direct targets.

    Attributes:
        input_ids: [B, L] token ids; 0 where a visual token or padding stands.
        visual_index: [B, L] row of the flattened visual tokens [U * N], -1 for text and padding.
        position_ids: [B, L] depth in the tree.
        subtree_end: [B, L] one past the last token of the subtree; padding sees itself alone.
        pixel_values: [U, C, H, W] images after the encoder's transform.
        movable: [U] bool, whether an image may be shifted (False where boxes are asked of it).
        target_source: [T] flat index (b * L + i) of the token that predicts.
        target_id: [T] the token to predict.
        target_sequence: [T] which sequence it belongs to.
        sequence_question: [S] which question a sequence answers.
        sequence_weight: [S] loss weight (task x class); 1 where scoring.
        direct_image, direct_head, direct_label: [A] image, head and class of each direct target.
        direct_weight: [A] its loss weight.
        questions: the dataset's index of each of the Q questions.
        sequence_label: the choice of each sequence where options are scored.
        tokens: real tokens in ``input_ids``.
        sequence_tokens: tokens that the same sequences hold one by one, prefixes not shared.
    """

    input_ids: torch.Tensor
    visual_index: torch.Tensor
    position_ids: torch.Tensor
    subtree_end: torch.Tensor
    pixel_values: torch.Tensor
    movable: torch.Tensor
    target_source: torch.Tensor
    target_id: torch.Tensor
    target_sequence: torch.Tensor
    sequence_question: torch.Tensor
    sequence_weight: torch.Tensor
    direct_image: torch.Tensor
    direct_head: torch.Tensor
    direct_label: torch.Tensor
    direct_weight: torch.Tensor
    questions: tuple[int, ...]
    sequence_label: tuple[int, ...]
    tokens: int
    sequence_tokens: int

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensor fields by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if hasattr(value, "device")}

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        moved = {
            name: tensor.to(device, non_blocking=non_blocking)
            for name, tensor in self.tensors().items()
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, so that copies to a GPU overlap with its work."""
        return replace(self, **{name: t.pin_memory() for name, t in self.tensors().items()})  # type: ignore[arg-type]
