"""Make a Batch of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.image_input import BatchImages, ImageInput, length
from spinevl.data.packing.layout import Packing, Sequenced, lay_out
from spinevl.schema.batch import Batch
from spinevl.schema.dialogue import Dialogue
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.image_ref import Modality

Group = Sequence[tuple[int, Dialogue]]


class DialogueCollator:
    """Turns conversations into a Batch in which every answer is learned.

    Args:
        conversation: writes them as the LLM reads them.
        sights: how the model gets its images, by modality.
        max_length: the longest sequence that the LLM takes.
        packing: see Collator.
    """

    def __init__(
        self,
        *,
        conversation: Conversation,
        image_inputs: Mapping[Modality, ImageInput],
        max_length: int,
        packing: Packing = "tree",
    ) -> None:
        self.conversation = conversation
        self.image_inputs = image_inputs
        self.max_length = max_length
        self.packing: Packing = packing

    def __call__(self, groups: Sequence[Group]) -> Batch:
        """Groups of (dataset index, conversation) -> one Batch."""
        seen = BatchImages(self.image_inputs)
        items = [pair for group in groups for pair in group]
        sequences = []
        for number, (_, dialogue) in enumerate(items):
            sequence = self.conversation.dialogue(dialogue.rounds)
            symbols, learned = seen.expand(sequence, dialogue.pictures)
            sequences.append(Sequenced(number, -1, symbols, learned, 1.0))
        return lay_out(
            sequences,
            seen,
            packing=self.packing,
            questions=[index for index, _ in items],
            still=frozenset(seen.paths("image")),  # an answer may name a place
        )

    def length(self, dialogue: Dialogue) -> int:
        """Tokens of a conversation, visual tokens included."""
        sequence = self.conversation.dialogue(dialogue.rounds)
        return length(sequence, dialogue.pictures, self.image_inputs)

    def check(self, dialogues: Sequence[Dialogue]) -> None:
        """Raise UserError for each that is too long, or shows what the model has no eyes for."""
        problems = [found for one in dialogues if (found := self._problem(one)) is not None]
        if problems:
            raise UserError(problems)

    def _problem(self, dialogue: Dialogue) -> Problem | None:
        blind = {modality for modality, _ in dialogue.pictures} - set(self.image_inputs)
        if blind:
            return Problem(
                dialogue.where,
                f"images of {', '.join(self.image_inputs)} alone, which the encoder reads",
                f"<{blind.pop()}>",
                "choose another encoder, or add encoder3d",
            )
        waits = dialogue.rounds[-1][1] is None
        if not waits and not self.conversation.dialogue(dialogue.rounds).learned:
            return Problem(
                dialogue.where,
                "an answer with a token to learn behind something to learn it from",
                "none",
                "lengthen it or show an image",
            )
        longest = self.length(dialogue)
        if longest > self.max_length:
            return Problem(
                dialogue.where,
                f"at most {self.max_length} tokens (llm.max_length, or what the model's positions "
                "or sliding window allow)",
                f"{longest}, so that the answer would be cut",
                "shorten it, show fewer images, or choose another model",
            )
        return None
