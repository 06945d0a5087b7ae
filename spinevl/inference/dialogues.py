"""How a model reads conversations with their images, and answers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from spinevl.data.images import ImageStore
from spinevl.data.packing.conversation import PLACEHOLDER
from spinevl.data.packing.dialogue_collate import DialogueCollator
from spinevl.data.packing.image_input import BatchImages, Store
from spinevl.data.packing.layout import Packing
from spinevl.features.store import FeatureCache
from spinevl.inference.assemble import (
    conversation_of,
    image_inputs_of,
    keep_features,
    visual_rows_of,
)
from spinevl.io.image_file import load_rgb
from spinevl.io.volume_file import load_volume
from spinevl.models.generate import greedy
from spinevl.models.vlm import VLM
from spinevl.schema.dialogue import Dialogue
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality


def dialogue_collator(
    model: VLM, *, window: tuple[float, float] | None, packing: Packing = "tree"
) -> DialogueCollator:
    """A DialogueCollator that lays out batches as ``model`` reads them.

    Args:
        model: the model.
        window: of volumes, see load_volume.
        packing: see Collator.
    """
    stores: dict[Modality, Store] = {
        "image": ImageStore(load=load_rgb),
        "image3d": ImageStore(load=lambda path: load_volume(path, window=window)),
    }
    inputs = model.inputs()
    return DialogueCollator(
        conversation=conversation_of(inputs),
        image_inputs=image_inputs_of(inputs, stores),
        max_length=inputs.max_length,
        packing=packing,
    )


class DialoguePredictor:
    """Answers what conversations ask.

    Args:
        model: the model, in evaluation mode.
        window: of volumes, see load_volume.
        batch_size: conversations read at once.
        max_new_tokens, repetition_penalty: of an answer, see greedy.
        own_history: go on from the model's own earlier answers, not the file's.
        cache: of the features of frozen encoders.
    """

    def __init__(
        self,
        model: VLM,
        *,
        window: tuple[float, float] | None,
        batch_size: int = 16,
        max_new_tokens: int = 512,
        repetition_penalty: float = 1.0,
        own_history: bool = False,
        cache: FeatureCache | None = None,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.repetition_penalty = repetition_penalty
        self.own_history = own_history
        self.cache = cache
        self.collate = dialogue_collator(model, window=window)

    def predict(
        self, dialogues: Sequence[tuple[int, Dialogue]]
    ) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
        """(index, rounds with their answers) of each conversation, batch by batch.

        Raises:
            UserError: before anything is answered, for conversations that do not fit the model.
        """
        self.collate.check([dialogue for _, dialogue in dialogues])
        self._check([dialogue for _, dialogue in dialogues])
        if self.cache is not None:
            shown = [picture for _, dialogue in dialogues for picture in dialogue.pictures]
            keep_features(self.model, self.cache, self.collate.image_inputs, shown)
        return self._answers(dialogues)

    def _answers(
        self, dialogues: Sequence[tuple[int, Dialogue]]
    ) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
        for start in range(0, len(dialogues), self.batch_size):
            yield from self._batch(dialogues[start : start + self.batch_size])

    def _check(self, dialogues: Sequence[Dialogue]) -> None:
        """Refuse what could not be answered, all before the first answer."""
        if self.collate.conversation.template == "pretrain":
            raise UserError(
                "checkpoint: trained with llm.conversation=pretrain, it hears no question; train "
                "it further with llm.conversation=medmvl or chat"
            )
        problems = []
        for one in dialogues:
            if self.own_history and any(PLACEHOLDER.search(a) for _, a in one.rounds if a):
                problems.append(
                    f"{one.where}: an answer shows an image, and predict.history=own replaces it; "
                    "use predict.history=given"
                )
            room = self.collate.length(one) + self.max_new_tokens
            if room > self.collate.max_length:
                problems.append(self._too_long(one, room - self.max_new_tokens))
        if problems:
            raise UserError(problems)

    def _too_long(self, dialogue: Dialogue, tokens: int) -> str:
        return (
            f"{dialogue.where}: {tokens} tokens and predict.max_new_tokens={self.max_new_tokens} "
            f"are more than the {self.collate.max_length} that the LLM takes; lower "
            "predict.max_new_tokens or shorten the conversation"
        )

    def _batch(
        self, dialogues: Sequence[tuple[int, Dialogue]]
    ) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
        said: list[list[tuple[str, str]]] = [[] for _ in dialogues]
        for turn in range(max(len(dialogue.rounds) for _, dialogue in dialogues)):
            asked = []
            for number, (_, dialogue) in enumerate(dialogues):
                if turn >= len(dialogue.rounds):
                    continue
                question, answer = dialogue.rounds[turn]
                if answer is None or self.own_history:
                    asked.append(number)
                else:
                    said[number].append((question, answer))
            answers = self._ask([(dialogues[n][1], said[n], turn) for n in asked])
            for number, text in zip(asked, answers, strict=True):
                said[number].append((dialogues[number][1].rounds[turn][0], text))
        for (index, _), rounds in zip(dialogues, said, strict=True):
            yield index, tuple(rounds)

    @torch.inference_mode()
    def _ask(self, waiting: Sequence[tuple[Dialogue, list[tuple[str, str]], int]]) -> list[str]:
        """The answers to question ``turn`` of some conversations, after what was said."""
        if not waiting:
            return []
        conversation = self.collate.conversation
        seen = BatchImages(self.collate.image_inputs)
        prompts = []
        for dialogue, said, turn in waiting:
            before = [
                # what a model says is text, whatever it looks like
                (question, PLACEHOLDER.sub("", answer) if self.own_history else answer)
                for question, answer in said
            ]
            rounds = [*before, (dialogue.rounds[turn][0], None)]
            symbols, _ = seen.expand(conversation.dialogue(rounds), dialogue.pictures)
            if len(symbols) + self.max_new_tokens > self.collate.max_length:
                raise UserError(self._too_long(dialogue, len(symbols)))
            prompts.append(np.array(symbols))
        answers = greedy(
            self.model,
            prompts=[(prompt, seen.rows(prompt)) for prompt in prompts],
            visual_rows=visual_rows_of(self.model, seen),
            end_id=conversation.answer_end(),
            max_new_tokens=self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
        )
        decode = self.model.llm.tokenizer.decode
        return [decode(tokens, skip_special_tokens=True).strip(" \n") for tokens in answers]
