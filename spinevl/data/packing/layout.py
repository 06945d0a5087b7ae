"""Lay sequences out in rows: a Batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spinevl.config.options import Attention, LossMean, Packing
from spinevl.data.packing.attention_blocks import attention_fields, row_length
from spinevl.data.packing.image_input import BatchImages
from spinevl.data.packing.prefix_tree import PackedRow, join, pack
from spinevl.schema.batch import Batch
from spinevl.schema.image_ref import ImageRef


@dataclass(frozen=True)
class Sequenced:
    """One sequence: which question and choice it stands for, its symbols and learned spans.

    Its weight is that of its answer in the loss; a conversation's answers share it. Where tokens
    are chosen from ``allowed`` ones alone, they stand here for each learned token in order.
    """

    question: int
    label: int
    symbols: tuple[int, ...]
    learned: tuple[tuple[int, int], ...]
    weight: float
    allowed: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class AuxiliaryTarget:
    """What an auxiliary head is asked of an image: its number, head, class and loss weight."""

    image: int
    head: int
    label: int
    weight: float


def lay_out(
    sequences: Sequence[Sequenced],
    images: BatchImages,
    *,
    packing: Packing,
    attention: Attention = Attention.blocks,
    loss: LossMean = LossMean.answer,
    questions: Sequence[int],
    fixed: Collection[ImageRef] = (),
    auxiliary: Sequence[AuxiliaryTarget] = (),
    numbers: Mapping[ImageRef, int] | None = None,
) -> Batch:
    """A Batch of sequences.

    Args:
        sequences: their images numbered by ``images``.
        images: of the batch.
        packing, attention, loss: see Collator.
        questions: the dataset's index of each question.
        fixed: images that must not be shifted (their boxes are targets).
        auxiliary: targets of the auxiliary classification heads.
        numbers: of the images in the training.
    """
    rows = packed_rows(sequences, packing)
    width = row_length(rows, attention)
    symbols = np.zeros((len(rows), width), dtype=np.int64)
    depth = np.zeros_like(symbols)
    sources: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    counts: list[int] = []  # targets of each sequence
    for number, row in enumerate(rows):
        n = len(row.symbols)
        symbols[number, :n], depth[number, :n] = row.symbols, row.depth
        for targets in row.targets:
            counts.append(len(targets))
            sources.append(targets[:, 0] + number * width)
            ids.append(targets[:, 1])
    weights = np.array([one.weight for one in sequences], dtype=np.float32)
    if loss == LossMean.answer:
        weights /= np.maximum(counts, 1)
    encoded = {kind: read(images.of(kind)) for kind, read in images.inputs.items()}
    numbers = numbers or {}
    nothing = (torch.zeros(0), None)
    pixel_values, features = encoded.get("image", nothing)
    volumes, volume_features = encoded.get("image3d", nothing)
    predicting, target_row, allowed = _predictions(np.concatenate(sources), sequences)
    return Batch(
        input_ids=torch.from_numpy(np.maximum(symbols, 0)),
        visual_index=torch.from_numpy(images.rows(symbols)),
        position_ids=torch.from_numpy(depth),
        **attention_fields(rows, length=width, attention=attention),
        pixel_values=pixel_values,
        features=features,
        volumes=volumes,
        volume_features=volume_features,
        shiftable=torch.tensor([image not in fixed for image in images.of("image")]),
        predicting=torch.from_numpy(predicting),
        allowed=allowed,
        target_row=torch.from_numpy(target_row),
        target_id=torch.from_numpy(np.concatenate(ids)),
        target_sequence=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
        target_weight=torch.from_numpy(np.repeat(weights, counts)),
        sequence_question=torch.tensor([one.question for one in sequences]),
        auxiliary_image=torch.tensor([target.image for target in auxiliary], dtype=torch.long),
        auxiliary_head=torch.tensor([target.head for target in auxiliary], dtype=torch.long),
        auxiliary_label=torch.tensor([target.label for target in auxiliary], dtype=torch.long),
        auxiliary_weight=torch.tensor([target.weight for target in auxiliary], dtype=torch.float32),
        answer_divisor=float(len(sequences) if loss == LossMean.answer else sum(counts)),
        auxiliary_divisor=float(len(auxiliary)),
        questions=tuple(questions),
        sequence_label=tuple(one.label for one in sequences),
        tokens=sum(len(row.symbols) for row in rows),
        sequence_tokens=sum(len(one.symbols) - 1 for one in sequences),
        image_numbers=tuple(numbers.get(image, 0) for image in images.of("image")),
    )


def _predictions(
    sources: np.ndarray, sequences: Sequence[Sequenced]
) -> tuple[np.ndarray, np.ndarray, torch.Tensor | None]:
    """The places that predict, which of them predicts each target, and what each may choose.

    Args:
        sources: the place that predicts each target, in the order of the sequences.
        sequences: all of them choose from allowed tokens, or none does.
    """
    choices = [tokens for one in sequences if one.allowed is not None for tokens in one.allowed]
    if all(one.allowed is None for one in sequences):
        return *np.unique(sources, return_inverse=True), None
    # a place may stand before the options of two questions
    rows: dict[tuple[int, tuple[int, ...]], int] = {}
    pairs = zip(sources.tolist(), choices, strict=True)
    target_row = np.array([rows.setdefault(pair, len(rows)) for pair in pairs], dtype=np.int64)
    widest = max((len(tokens) for _, tokens in rows), default=1)
    allowed = torch.full((len(rows), widest), -1)
    for number, (_, tokens) in enumerate(rows):
        allowed[number, : len(tokens)] = torch.tensor(tokens)
    return np.array([place for place, _ in rows], dtype=np.int64), target_row, allowed


def packed_rows(sequences: Sequence[Sequenced], packing: Packing) -> list[PackedRow]:
    """The rows of a batch: one tree of all sequences, one forest, or a row for each."""
    if packing == Packing.tree:
        return [pack([one.symbols for one in sequences], [one.learned for one in sequences])]
    rows = [pack([one.symbols], [one.learned]) for one in sequences]
    return [join(rows)] if packing == Packing.plain else rows
