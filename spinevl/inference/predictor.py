"""Ask a model: probabilities of every option, or greedy text that is parsed strictly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from spinevl.data.datamodule import by_patient
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import pictures
from spinevl.data.packing.image_input import BatchImages
from spinevl.data.packing.layout import Packing
from spinevl.features.store import FeatureCache
from spinevl.inference.assemble import collator_of, keep_features, visual_rows_of
from spinevl.models.generate import greedy
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.batch import Batch
from spinevl.schema.box import Box
from spinevl.schema.prediction import Prediction
from spinevl.schema.record import Record
from spinevl.schema.task import Task

Mode = Literal["choice", "generate"]


class Predictor:
    """Answers records with one model.

    Args:
        model: the model, in evaluation mode.
        tasks: the tasks that the records name.
        mode: ``choice`` scores every option text of a closed question, so no unparseable answer
            can occur; ``generate`` decodes greedily. Boxes are always generated.
        batch_patients: patients read at once.
        max_new_tokens, repetition_penalty: of a generated answer, see greedy.
        images: shared store of decoded images.
        packing: see Collator.
        cache: of the features of a frozen encoder.
    """

    def __init__(
        self,
        model: VLM,
        *,
        tasks: Mapping[str, Task],
        mode: Mode = "choice",
        batch_patients: int = 16,
        max_new_tokens: int = 48,
        repetition_penalty: float = 1.0,
        images: ImageStore | None = None,
        packing: Packing = "tree",
        cache: FeatureCache | None = None,
    ) -> None:
        self.model = model
        self.tasks = tasks
        self.mode = mode
        self.batch_patients = batch_patients
        self.max_new_tokens = max_new_tokens
        self.repetition_penalty = repetition_penalty
        self.cache = cache
        self.images = images or ImageStore()
        self.collate = collator_of(model, tasks, images=self.images, packing=packing)
        self.conversation = self.collate.conversation

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        """One prediction a question, in the order of the records; separate slices are merged."""
        self.collate.check(records)
        if self.cache is not None:
            shown = [picture for record in records for picture in pictures(record)]
            keep_features(self.model, self.cache, self.collate.image_inputs, shown)
        answers: dict[int, Prediction] = {}
        for index, prediction in self._answers(records):
            answers[index] = prediction
        return merge_slices([answers[index] for index in range(len(records))], self.tasks)

    @torch.inference_mode()
    def _answers(self, records: Sequence[Record]) -> Iterator[tuple[int, Prediction]]:
        scored = [self.mode == "choice" and self.tasks[r.task].closed for r in records]
        groups = by_patient(records)
        for start in range(0, len(groups), self.batch_patients):
            chunk = groups[start : start + self.batch_patients]
            for wanted, answer in ((True, self._choose), (False, self._generate)):
                part = [[pair for pair in group if scored[pair[0]] is wanted] for group in chunk]
                part = [group for group in part if group]
                if part:
                    yield from answer(part)

    def _choose(self, groups: list[list[tuple[int, Record]]]) -> Iterator[tuple[int, Prediction]]:
        batch = self.collate(groups).to(self._device)
        logprobs = sequence_logprobs(self.model(batch), batch).double().tolist()
        records = dict(pair for group in groups for pair in group)
        for index, options in option_logprobs(batch, logprobs).items():
            yield index, choice_prediction(records[index], self.tasks[records[index].task], options)

    def _generate(self, groups: list[list[tuple[int, Record]]]) -> Iterator[tuple[int, Prediction]]:
        pairs = [pair for group in groups for pair in group]
        seen = BatchImages(self.collate.image_inputs)
        prompts = [
            np.array(seen.expand(self.conversation.prompt(record.prompt), pictures(record))[0])
            for _, record in pairs
        ]
        answers = greedy(
            self.model,
            prompts=[(prompt, seen.rows(prompt)) for prompt in prompts],
            visual_rows=visual_rows_of(self.model, seen),
            end_id=self.conversation.answer_end(),
            max_new_tokens=self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
        )
        for (index, record), tokens in zip(pairs, answers, strict=True):
            text = self.model.llm.tokenizer.decode(tokens)
            yield index, text_prediction(record, self.tasks[record.task], text)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def option_logprobs(batch: Batch, logprobs: Sequence[float]) -> dict[int, dict[int, float]]:
    """Dataset index -> label -> log-probability of its option text, from a choice batch."""
    owners = batch.sequence_question.tolist()
    result: dict[int, dict[int, float]] = {index: {} for index in batch.questions}
    for owner, label, logprob in zip(owners, batch.sequence_label, logprobs, strict=True):
        if label >= 0:
            result[batch.questions[owner]][label] = logprob
    return result


def choice_prediction(record: Record, task: Task, logprobs: Mapping[int, float]) -> Prediction:
    """The most probable option; ties go to the lower label."""
    probabilities = normalised(logprobs)
    choice = max(sorted(probabilities), key=lambda label: probabilities[label])
    return Prediction(
        record.id,
        record.task,
        record.object,
        record.slices,
        choice,
        probabilities,
        task.choices[choice],
    )


def text_prediction(record: Record, task: Task, text: str) -> Prediction:
    """A generated answer, parsed strictly: None where it is not exactly an answer."""
    box = None if task.closed else Box.parse_answer(text, record.object)
    choice = task.parse(text) if task.closed else None
    return Prediction(
        record.id, record.task, record.object, record.slices, choice, None, text.strip(), box
    )


def normalised(logprobs: Mapping[int, float]) -> dict[int, float]:
    """Log-probabilities of the options -> probabilities that sum to 1 over them."""
    highest = max(logprobs.values())
    weights = {label: math.exp(value - highest) for label, value in logprobs.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def merge_slices(predictions: Sequence[Prediction], tasks: Mapping[str, Task]) -> list[Prediction]:
    """Merge the closed questions that were asked of several slices apart.

    Probabilities by the mean log-probability; generated labels by majority, ties to the lower.
    Boxes belong to one slice each and stay as they are.
    """
    groups: dict[tuple[object, ...], list[Prediction]] = {}
    for one in predictions:
        slot = one.slices if not tasks[one.task].closed else ()
        groups.setdefault((one.id, one.task, one.object, slot), []).append(one)
    return [
        group[0] if len(group) == 1 else _merged(group, tasks[group[0].task])
        for group in groups.values()
    ]


def _merged(group: Sequence[Prediction], task: Task) -> Prediction:
    first = group[0]
    slices = tuple(number for one in group for number in one.slices)
    tables = [one.probabilities for one in group]
    if all(table is not None for table in tables):
        floor = 1e-300
        means = {
            label: sum(math.log(max(table[label], floor)) for table in tables if table)
            / len(tables)
            for label in tables[0] or {}
        }
        probabilities = normalised(means)
        choice = max(sorted(probabilities), key=lambda label: probabilities[label])
        return Prediction(
            first.id, first.task, first.object, slices, choice, probabilities, task.choices[choice]
        )
    votes = [one.choice for one in group if one.choice is not None]
    majority = max(sorted(set(votes)), key=votes.count) if votes else None
    text = " | ".join(one.text for one in group)
    return Prediction(first.id, first.task, first.object, slices, majority, None, text)
