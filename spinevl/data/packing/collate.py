"""Make a Batch of several patients' questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spinevl.data.auxiliary_targets import AuxiliarySizes
from spinevl.data.packing.conversation import PLACEHOLDER, Conversation, TokenSequence
from spinevl.data.packing.image_input import BatchImages, ImageInput, length
from spinevl.data.packing.layout import AuxiliaryTarget, Packing, Sequenced, lay_out
from spinevl.data.weighting import LossWeights
from spinevl.schema.batch import Batch
from spinevl.schema.dialogue import Picture
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.image_ref import Modality
from spinevl.schema.record import Record
from spinevl.schema.task import Task

Group = Sequence[tuple[int, Record]]


class Collator:
    """Turns groups of records into a Batch.

    Args:
        tasks: the tasks that the records name.
        conversation: writes a question as the LLM reads it.
        sights: how the model gets its images, by modality; records show 2D images.
        max_length: the longest sequence that the LLM takes.
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
        image_inputs: Mapping[Modality, ImageInput],
        max_length: int,
        packing: Packing = "tree",
        weights: LossWeights | None = None,
        heads: AuxiliarySizes | None = None,
    ) -> None:
        if packing not in ("tree", "plain", "off"):
            raise UserError(f"packing={packing}: expected tree, plain or off")
        self.tasks = tasks
        self.conversation = conversation
        self.image_inputs = image_inputs
        self.max_length = max_length
        self.packing: Packing = packing
        self.weights = weights
        self.heads = heads
        self._head_numbers = {name: k for k, name in enumerate(heads.sizes)} if heads else {}

    def __call__(self, groups: Sequence[Group]) -> Batch:
        """Groups of (dataset index, record) -> one Batch."""
        seen = BatchImages(self.image_inputs)
        questions: list[int] = []
        sequences: list[Sequenced] = []
        records: list[Record] = []
        for group in groups:
            for index, record in group:
                sequences.extend(self._sequences(record, len(questions), seen))
                questions.append(index)
                records.append(record)
        return lay_out(
            sequences,
            seen,
            packing=self.packing,
            questions=questions,
            still=self._still(records),
            direct=self._auxiliary(records, seen),
        )

    def length(self, record: Record) -> int:
        """Tokens of the longest sequence of a record, visual tokens included."""
        task = self.tasks[record.task]
        return max(
            length(self._exchange(record, answer), pictures(record), self.image_inputs)
            for answer in self._answers(record, task)
        )

    def check(self, records: Sequence[Record]) -> None:
        """Raise UserError for every record whose sequence is too long or lacks an image."""
        if "image" not in self.image_inputs:
            raise UserError("the model reads volumes (image3d), and the data show 2D images")
        if self.conversation.template == "pretrain":
            raise UserError(
                "llm.conversation=pretrain: it drops the question; choose chat or medmvl"
            )
        problems = [problem for record in records if (problem := self._problem(record)) is not None]
        if problems:
            raise UserError(problems)

    def _problem(self, record: Record) -> Problem | None:
        where = f"record {record.id} {record.task} {record.object}".rstrip()
        placeholders = len(PLACEHOLDER.findall(record.prompt))
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

    def _exchange(self, record: Record, answer: str) -> TokenSequence:
        return self.conversation.exchange(record.prompt, answer)

    def _sequences(self, record: Record, question: int, seen: BatchImages) -> list[Sequenced]:
        """The sequences of one question: its true answer to learn, or every option to score."""
        task = self.tasks[record.task]
        weight = 1.0 if self.weights is None else self.weights[record]
        learned = self.weights is not None
        answers = self._answers(record, task)
        labels = [-1] if learned or not task.closed else range(len(task.choices))
        result = []
        for label, answer in zip(labels, answers, strict=True):
            symbols, spans = seen.expand(self._exchange(record, answer), pictures(record))
            result.append(Sequenced(question, label, symbols, spans, weight))
        return result

    def _still(self, records: Sequence[Record]) -> frozenset[str]:
        """Images whose boxes are asked: the answers are coordinates of these pixels."""
        return frozenset(
            path
            for record in records
            if not self.tasks[record.task].closed
            for path in record.images
        )

    def _auxiliary(self, records: Sequence[Record], seen: BatchImages) -> list[AuxiliaryTarget]:
        if self.heads is None or self.weights is None:
            return []
        return [
            AuxiliaryTarget(
                seen.number(("image", path)),
                self._head_numbers[head],
                label,
                self.weights[record],
            )
            for record in records
            for path, head, label in self.heads.targets(record, self.tasks[record.task])
        ]


def pictures(record: Record) -> list[Picture]:
    """The images of a record in the order of its placeholders."""
    return [("image", path) for path in record.images]
