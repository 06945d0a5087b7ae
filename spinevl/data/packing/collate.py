"""Make a Batch of examples: of patients' questions, or of conversations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from spinevl.config.options import Attention, LossMean, Packing, Scoring
from spinevl.data.auxiliary_targets import head_targets
from spinevl.data.images import ImageStore
from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.image_input import BatchImages, ImageInput, length
from spinevl.data.packing.layout import AuxiliaryTarget, Sequenced, lay_out
from spinevl.data.packing.option_trie import branchings
from spinevl.schema.batch import Batch
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.example import Example, Rounds
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.model_inputs import ModelInputs

Group = Sequence[tuple[int, Example]]


class Collator:
    """Turns groups of examples into a Batch.

    Args:
        model: what the model reads.
        images: decoded images.
        packing: ``tree`` lays the sequences of a batch out as one prefix tree, where every shared
            token stands once; ``plain`` packs them side by side; ``off`` pads, one a row.
        attention: the attention of the LLM that batches are prepared for.
        loss: whether an answer, or each of its tokens, has the example's weight in the loss.
        learn: lay out the true answers to learn; otherwise every option of a closed question, to
            score them, and the answers of conversations as they are.
        scoring: how options are scored: ``trie`` leaves out all that follows the last choice among
            them; batches with other answers are scored in full.
        heads: name of an auxiliary head -> number of classes; their targets go along with what is
            learned.

    Attributes:
        inputs: how the model gets its images, by modality.
    """

    def __init__(
        self,
        model: ModelInputs,
        images: ImageStore,
        *,
        packing: Packing = Packing.tree,
        attention: Attention = Attention.blocks,
        loss: LossMean = LossMean.answer,
        learn: bool = False,
        scoring: Scoring = Scoring.trie,
        heads: Mapping[str, int] | None = None,
    ) -> None:
        self.conversation = Conversation(
            model.tokenizer, template=model.conversation, end_token=model.end_token
        )
        self.inputs = {kind: ImageInput(one, images) for kind, one in model.vision.items()}
        self.max_length = model.max_length
        self.packing = Packing(packing)
        self.attention = Attention(attention)
        self.loss = LossMean(loss)
        self.learn = learn
        self.scoring = Scoring(scoring)
        self.heads = {name: number for number, name in enumerate(heads or {})}
        self.numbers: Mapping[ImageRef, int] = {}

    def to_score(self) -> Collator:
        """The same for scoring, on the same images."""
        other = copy.copy(self)
        other.learn, other.heads = False, {}
        return other

    def with_own_inputs(self) -> Collator:
        """The same, whose inputs may read the features of some images alone."""
        other = copy.copy(self)
        other.inputs = {kind: copy.copy(one) for kind, one in self.inputs.items()}
        return other

    def numbering(self, images: Iterable[ImageRef]) -> Collator:
        """The same, with the images of the training numbered in order of first appearance."""
        other = copy.copy(self)
        other.numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
        return other

    def __call__(self, groups: Sequence[Group]) -> Batch:
        """Groups of (dataset index, example) -> one Batch."""
        images = BatchImages(self.inputs)
        pairs = [pair for group in groups for pair in group]
        options = not self.learn and all(example.kind == "option" for _, example in pairs)
        sequenced = self._choices if options and self.scoring == Scoring.trie else self._whole
        sequences = [
            one
            for question, (_, example) in enumerate(pairs)
            for one in sequenced(question, example, images)
        ]
        # answers that name a place would be wrong for a shifted image
        fixed = {one for _, example in pairs if example.kind != "option" for one in example.images}
        return lay_out(
            sequences,
            images,
            packing=self.packing,
            attention=self.attention,
            loss=self.loss,
            questions=[index for index, _ in pairs],
            fixed=fixed,
            auxiliary=[target for _, one in pairs for target in self._auxiliary(one, images)],
            numbers=self.numbers,
        )

    def _whole(self, question: int, example: Example, images: BatchImages) -> list[Sequenced]:
        """Each sequence of an example."""
        return [
            Sequenced(
                question,
                label,
                *images.expand(self.conversation.dialogue(rounds), example.images),
                example.weight,
            )
            for label, rounds in self._answered(example)
        ]

    def _choices(self, question: int, example: Example, images: BatchImages) -> list[Sequenced]:
        """Each option of an example up to its last choice."""
        options = self._whole(question, example, images)
        return [
            replace(
                one,
                symbols=one.symbols[: max([2, *(at.place + 1 for at in choices)])],
                learned=tuple((at.place, at.place + 1) for at in choices),
                allowed=tuple(at.allowed for at in choices),
            )
            for one, choices in zip(
                options, branchings([one.symbols for one in options]), strict=True
            )
        ]

    def length(self, example: Example) -> int:
        """Tokens of the longest sequence of an example, visual tokens included."""
        return max(
            length(self.conversation.dialogue(rounds), example.images, self.inputs)
            for _, rounds in self._answered(example)
        )

    def check(self, examples: Sequence[Example], *, room: int = 0) -> None:
        """Raise UserError for every example that does not fit the model.

        Args:
            examples: what is to be laid out.
            room: tokens that a generated answer needs besides.
        """
        if self.conversation.template == "pretrain" and any(one.kind != "text" for one in examples):
            raise UserError(
                "llm.conversation=pretrain: it drops the question; choose chat or medmvl"
            )
        problems = Problems()
        for one in examples:
            with problems.collected():
                self._check(one, room)
        problems.raise_any()

    def _check(self, example: Example, room: int) -> None:
        where = example.where
        if unread := {image.modality for image in example.images} - set(self.inputs):
            wanted = f"images of {', '.join(self.inputs)} alone, which the encoder reads"
            fix = "choose another encoder, or add encoder3d"
            raise refused(where, wanted, f"<{unread.pop()}>", fix)
        text = " ".join(part for turn in example.rounds for part in turn if part)
        if (placeholders := len(PLACEHOLDER.findall(text))) != len(example.images):
            wanted = f"one <image> in the prompt for each of its {len(example.images)} images"
            raise refused(
                where, wanted, f"{placeholders}", "mend the prompt template or the record"
            )
        waits = example.rounds[-1][1] is None and not self.learn
        if not waits and not self.conversation.dialogue(example.rounds).learned:
            wanted = "an answer with a token to learn behind something to learn it from"
            raise refused(where, wanted, "none", "lengthen it or show an image")
        if (longest := self.length(example)) + room > self.max_length:
            bound = "llm.max_length, or what the model's positions or sliding window allow"
            found = f"{longest}" + (f" and predict.max_new_tokens={room}" if room else "")
            raise refused(
                where,
                f"at most {self.max_length} tokens ({bound})",
                f"{found}, so that the answer would be cut",
                "shorten it, show fewer images, or choose another model",
            )

    def _answered(self, example: Example) -> list[tuple[int, Rounds]]:
        """(label, rounds) of each sequence; the label is -1 where no option is scored."""
        if self.learn or example.kind != "option":
            return [(-1, example.rounds)]
        *before, (question, _) = example.rounds
        return [
            (label, (*before, (question, option))) for label, option in enumerate(example.options)
        ]

    def _auxiliary(self, example: Example, images: BatchImages) -> list[AuxiliaryTarget]:
        return [
            AuxiliaryTarget(images.number(image), self.heads[head], label, example.weight)
            for image, head, label in (head_targets(example) if self.heads else ())
        ]
