"""Make a Batch of several patients' questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from spinevl.data.blocks import attention_blocks
from spinevl.data.conversation import Conversation, TokenSequence
from spinevl.data.direct import DirectHeads
from spinevl.data.image_store import ImageStore
from spinevl.data.tree import PackedRow, join, pack
from spinevl.data.weighting import LossWeights
from spinevl.schema.batch import Batch
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.record import Record
from spinevl.schema.task import Task

Group = Sequence[tuple[int, Record]]
Packing = Literal["tree", "plain", "off"]


@dataclass(frozen=True)
class _Sequence:
    """One packed sequence: which question and choice it stands for, and its symbols."""

    question: int
    label: int
    symbols: tuple[int, ...]
    answer_start: int
    weight: float


class Collator:
    """Turns groups of records into a Batch.

    Args:
        tasks: the tasks that the records name.
        conversation: writes a question as the LLM reads it.
        tokens_per_image: visual tokens that an image becomes.
        transform: uint8 [H, W] -> float32 [C, H, W], the encoder's own.
        images: where decoded images come from.
        max_length: the longest sequence that the LLM takes.
        features: paths -> [U, N, dim], encoded earlier; images are encoded by the model without.
        packing: ``tree`` packs all sequences into one row where every shared prefix stands once;
            ``plain`` puts them side by side in one row, nothing shared; ``off`` gives each a
            padded row of its own. The results are the same.
        weights: loss weights; given for learning, where each question has its true answer. Without
            them every option of every closed question is laid out for scoring.
        heads: direct heads; their targets are added where given with ``weights``.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task],
        conversation: Conversation,
        tokens_per_image: int,
        transform: Callable[[np.ndarray], torch.Tensor],
        images: ImageStore,
        max_length: int,
        features: Callable[[Sequence[str]], torch.Tensor] | None = None,
        packing: Packing = "tree",
        weights: LossWeights | None = None,
        heads: DirectHeads | None = None,
    ) -> None:
        self.tasks = tasks
        self.conversation = conversation
        self.tokens_per_image = tokens_per_image
        self.transform = transform
        self.images = images
        self.max_length = max_length
        self.features = features
        if packing not in ("tree", "plain", "off"):
            raise UserError(f"packing={packing}: expected tree, plain or off")
        self.packing = packing
        self.weights = weights
        self.heads = heads
        self._head_numbers = {name: k for k, name in enumerate(heads.sizes)} if heads else {}

    def __call__(self, groups: Sequence[Group]) -> Batch:
        """Groups of (dataset index, record) -> one Batch."""
        paths: dict[str, int] = {}
        questions: list[int] = []
        sequences: list[_Sequence] = []
        for group in groups:
            for index, record in group:
                sequences.extend(self._sequences(record, len(questions), paths))
                questions.append(index)
        return self._batch(groups, paths, questions, self._rows(sequences), sequences)

    def _rows(self, sequences: Sequence[_Sequence]) -> list[PackedRow]:
        if self.packing == "tree":
            return [
                pack([one.symbols for one in sequences], [one.answer_start for one in sequences])
            ]
        rows = [pack([one.symbols], [one.answer_start]) for one in sequences]
        return [join(rows)] if self.packing == "plain" else rows

    def look(self, paths: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images as the model takes them: pixels [U, C, H, W] and None, or [0] and features."""
        if self.features is not None:
            return torch.zeros(0), self.features(paths)
        return torch.stack([self.transform(self.images[path]) for path in paths]), None

    def length(self, record: Record) -> int:
        """Tokens of the longest sequence of a record, visual tokens included."""
        task = self.tasks[record.task]
        return max(
            self._length(self._exchange(record, answer)) for answer in self._answers(record, task)
        )

    def check(self, records: Sequence[Record]) -> None:
        """Raise UserError for every record whose sequence is too long or lacks an image."""
        problems = [problem for record in records if (problem := self._problem(record)) is not None]
        if problems:
            raise UserError(problems)

    def _problem(self, record: Record) -> Problem | None:
        where = f"record {record.id} {record.task} {record.object}".rstrip()
        placeholders = record.prompt.count("<image>")
        if placeholders != len(record.images):
            return Problem(
                where,
                f"one <image> in the prompt for each of its {len(record.images)} images",
                f"{placeholders}",
                "mend the prompt template or the record",
            )
        longest = self.length(record)
        if longest > self.max_length:
            return Problem(
                where,
                f"at most {self.max_length} tokens (llm.max_length, or what the model's positions "
                "or sliding window allow)",
                f"{longest}",
                "shorten the prompt, show fewer images, or choose another model",
            )
        return None

    def _answers(self, record: Record, task: Task) -> Sequence[str]:
        if self.weights is None and task.closed:
            return task.choices
        return [record.answer or ""]

    def _length(self, sequence: TokenSequence) -> int:
        n_images = sum(symbol < 0 for symbol in sequence.symbols)
        return len(sequence.symbols) + n_images * (self.tokens_per_image - 1)

    def _exchange(self, record: Record, answer: str) -> TokenSequence:
        return self.conversation.exchange(record.prompt, answer)

    def _sequences(self, record: Record, question: int, paths: dict[str, int]) -> list[_Sequence]:
        """The sequences of one question: its true answer to learn, or every option to score."""
        task = self.tasks[record.task]
        numbers = [paths.setdefault(path, len(paths)) for path in record.images]
        weight = 1.0 if self.weights is None else self.weights[record]
        learned = self.weights is not None
        answers = self._answers(record, task)
        labels = [-1] if learned or not task.closed else range(len(task.choices))
        result = []
        for label, answer in zip(labels, answers, strict=True):
            exchange = self._exchange(record, answer)
            symbols, start = self._with_visual_tokens(exchange, numbers)
            result.append(_Sequence(question, label, symbols, start, weight))
        return result

    def _with_visual_tokens(
        self, exchange: TokenSequence, numbers: Sequence[int]
    ) -> tuple[tuple[int, ...], int]:
        """Each image becomes its tokens, written -1 - (row of the flattened visual tokens)."""
        symbols: list[int] = []
        n, start = self.tokens_per_image, exchange.answer_start
        for place, symbol in enumerate(exchange.symbols):
            if symbol >= 0:
                symbols.append(symbol)
                continue
            first = numbers[-1 - symbol] * n
            symbols.extend(range(-1 - first, -1 - first - n, -1))
            if place < exchange.answer_start:
                start += n - 1
        return tuple(symbols), start

    def _batch(
        self,
        groups: Sequence[Group],
        paths: Mapping[str, int],
        questions: Sequence[int],
        rows: Sequence[PackedRow],
        sequences: Sequence[_Sequence],
    ) -> Batch:
        length = max(len(row.symbols) for row in rows)
        symbols = np.zeros((len(rows), length), dtype=np.int64)
        depth = np.zeros_like(symbols)
        sources: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        for number, row in enumerate(rows):
            n = len(row.symbols)
            symbols[number, :n], depth[number, :n] = row.symbols, row.depth
            for targets in row.targets:
                owners.append(np.full(len(targets), len(owners)))
                sources.append(targets[:, 0] + number * length)
                ids.append(targets[:, 1])
        direct = self._direct(groups, paths)
        pixel_values, features = self.look(list(paths))
        predicting, target_row = np.unique(np.concatenate(sources), return_inverse=True)
        blocks, order = attention_blocks(rows, length=length)
        return Batch(
            input_ids=torch.from_numpy(np.maximum(symbols, 0)),
            visual_index=torch.from_numpy(np.where(symbols < 0, -1 - symbols, -1)),
            position_ids=torch.from_numpy(depth),
            attention=blocks,
            attention_order=order,
            pixel_values=pixel_values,
            features=features,
            movable=torch.tensor(self._movable(groups, paths)),
            predicting=torch.from_numpy(predicting),
            target_row=torch.from_numpy(target_row),
            target_id=torch.from_numpy(np.concatenate(ids)),
            target_sequence=torch.from_numpy(np.concatenate(owners)),
            sequence_question=torch.tensor([one.question for one in sequences]),
            sequence_weight=torch.tensor([one.weight for one in sequences], dtype=torch.float32),
            direct_image=torch.tensor([target[0] for target in direct], dtype=torch.long),
            direct_head=torch.tensor([target[1] for target in direct], dtype=torch.long),
            direct_label=torch.tensor([target[2] for target in direct], dtype=torch.long),
            direct_weight=torch.tensor([target[3] for target in direct], dtype=torch.float32),
            loss_tokens=float(sum(len(one) for one in ids)),
            loss_targets=float(max(len(direct), 1)),
            questions=tuple(questions),
            sequence_label=tuple(one.label for one in sequences),
            tokens=sum(len(row.symbols) for row in rows),
            sequence_tokens=sum(len(one.symbols) - 1 for one in sequences),
        )

    def _movable(self, groups: Sequence[Group], paths: Mapping[str, int]) -> list[bool]:
        movable = [True] * len(paths)
        for group in groups:
            for _, record in group:
                if not self.tasks[record.task].closed:
                    for path in record.images:
                        movable[paths[path]] = False  # its boxes are coordinates of these pixels
        return movable

    def _direct(
        self, groups: Sequence[Group], paths: Mapping[str, int]
    ) -> list[tuple[int, int, int, float]]:
        if self.heads is None or self.weights is None:
            return []
        return [
            (paths[path], self._head_numbers[head], label, self.weights[record])
            for group in groups
            for _, record in group
            for path, head, label in self.heads.targets(record, self.tasks[record.task])
        ]
