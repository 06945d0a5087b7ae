"""Let a model write: greedy answers round after round, or one answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from spinevl.config.options import History, PredictOptions
from spinevl.data.packing.collate import Collator, Group
from spinevl.data.packing.conversation import TokenSequence
from spinevl.data.packing.image_input import BatchImages, length
from spinevl.data.packing.prompts import lay_out_prompts
from spinevl.inference.answer import Answer, not_finite
from spinevl.inference.encode import visual_rows_of
from spinevl.inference.talk import Talk
from spinevl.models.generate import NOT_FINITE, Sampling, generate, greedy
from spinevl.models.vlm import VLM
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import Problems
from spinevl.schema.example import Example, Rounds

_KEYS_BYTES = 2**31
_LONGEST = {"option": 48, "box": 48, "text": 512}  # new tokens, where predict says nothing
_HALF = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for a character that is not whole yet


class Writer:
    """Writes answers with one model.

    Args:
        model: in evaluation mode.
        collate: lays out what it reads.
        options: how answers are read off the model.
        each_step: called at each token; what it raises ends the answers.
    """

    def __init__(
        self,
        model: VLM,
        collate: Collator,
        options: PredictOptions,
        each_step: Callable[[], object],
    ) -> None:
        self.model = model
        self.collate = collate
        self.conversation = collate.conversation
        self.options = options
        self.each_step = each_step

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse what could not be written, all before the first answer."""
        for room in sorted({self._longest(one) for one in examples}):
            self.collate.check([one for one in examples if self._longest(one) == room], room=room)
        problems = Problems()
        for one in examples if self.options.history == History.own else ():
            if any(PLACEHOLDER.search(answer) for _, answer in one.rounds if answer):
                problems.append(
                    f"{one.where}: an answer shows an image, and predict.history=own replaces it; "
                    "use predict.history=given"
                )
        problems.raise_any()

    def together(self, groups: Sequence[Group]) -> int:
        """How many groups at most are answered together, so that their keys and values fit.

        They are to take ``_KEYS_BYTES`` at most, as if no prompts shared any.
        """
        longest = max(
            sum(self.collate.length(one) + self._longest(one) for _, one in group)
            for group in groups
        )
        return max(1, _KEYS_BYTES // (self._bytes_a_token() * longest))

    def _bytes_a_token(self) -> int:
        """What keys and values of a token take."""
        config = self.model.llm.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = self.model.llm.head_dim
        size = self.model.llm.model.get_input_embeddings().weight.element_size()
        return int(2 * config.num_hidden_layers * heads * width * size)

    @torch.inference_mode()
    def answers(self, groups: Sequence[Group]) -> Generator[tuple[int, Answer], None, Problems]:
        """Greedy answers, round after round, to what waits for one.

        Returns:
            What is wrong with conversations that end early: the model's own answers left no room
            for another one.
        """
        problems = Problems()
        pairs = [pair for group in groups for pair in group]
        going_on = {index: Talk(example, self.options.history) for index, example in pairs}
        ended: list[tuple[int, Answer]] = []
        try:
            while going_on:
                asked: dict[int, tuple[Example, Rounds]] = {}
                for index, talk in going_on.items():
                    if (rounds := talk.next()) is None:
                        ended.append((index, Answer(tuple(talk.said))))
                    elif self.has_room(talk.example, rounds, problems):
                        asked[index] = talk.example, rounds
                going_on = {index: going_on[index] for index in asked}
                texts = self._texts(list(asked.values())) if asked else []
                for talk, text in zip(going_on.values(), texts, strict=True):
                    talk.say(text)
        except Exception:  # what has ended is told, whatever became of the others
            yield from ended
            raise
        yield from sorted(ended, key=itemgetter(0))
        return problems

    def _texts(self, waiting: Sequence[tuple[Example, Rounds]]) -> list[str]:
        """The answers to the last question of some conversations, after what was said."""
        answers = greedy(
            self.model,
            **self._prompts(waiting),
            end_id=self.conversation.answer_end(),
            max_new_tokens=max(self._longest(example) for example, _ in waiting),
            repetition_penalty=self.options.repetition_penalty,
            each_step=self.each_step,
        )
        # a NaN may reach others that are read together: alone, the right one is named
        return [
            self._texts([one])[0]
            if tokens is None and len(waiting) > 1
            else self._decoded(one[0], tokens)
            for one, tokens in zip(waiting, answers, strict=True)
        ]

    @torch.inference_mode()
    def stream(self, asked: Example, sampling: Sampling) -> Iterator[str]:
        """See Predictor.stream."""
        steps = generate(
            self.model,
            **self._prompts([(asked, asked.rounds)]),
            end_id=self.conversation.answer_end(),
            max_new_tokens=self._longest(asked),
            sampling=sampling,
        )
        tokens: list[int] = []
        shown = ""
        for step in steps:
            if (token := int(step[0])) == self.conversation.answer_end():
                break
            if token == NOT_FINITE:
                raise not_finite(asked, "logits")
            tokens.append(token)
            text = self._decoded(asked, tokens)
            shown = shown if text.endswith(_HALF) else text
            yield shown
        yield self._decoded(asked, tokens)

    def _prompts(self, waiting: Sequence[tuple[Example, Rounds]]) -> dict[str, Any]:
        """Some conversations, each up to its next answer, as ``generate`` takes them."""
        images = BatchImages(self.collate.inputs)
        prompts = [self._symbols(example, rounds, images) for example, rounds in waiting]
        return {
            "prompts": lay_out_prompts(
                [(prompt, images.rows(prompt)) for prompt in prompts],
                patients=[example.key.patient for example, _ in waiting],
                packing=self.options.packing,
                attention=self.options.attention,
                steps=max(self._longest(example) for example, _ in waiting),
            ),
            "visual_rows": visual_rows_of(self.model, images),
        }

    def has_room(self, example: Example, rounds: Rounds, problems: Problems) -> bool:
        """Whether the next answer of a conversation fits the model; notes the problem if not."""
        tokens = length(self._dialogue(rounds), example.images, self.collate.inputs)
        room = self._longest(example)
        if tokens + room <= self.collate.max_length:
            return True
        problems.add(
            example.where,
            f"at most {self.collate.max_length} tokens, which the LLM takes",
            f"{tokens} in front of answer {len(rounds)}, and predict.max_new_tokens={room}",
            "lower predict.max_new_tokens or shorten the conversation",
        )
        return False

    def _symbols(self, example: Example, rounds: Rounds, images: BatchImages) -> np.ndarray:
        """A conversation up to its next answer, as symbols [L]; its images are numbered."""
        symbols, _ = images.expand(self._dialogue(rounds), example.images)
        return np.array(symbols)

    def _dialogue(self, rounds: Rounds) -> TokenSequence:
        """A conversation up to its next answer."""
        if self.options.history == History.own:
            # what a model says is text, whatever it looks like
            rounds = tuple((q, a and PLACEHOLDER.sub("", a)) for q, a in rounds)
        return self.conversation.dialogue(rounds)

    def _decoded(self, example: Example, tokens: Sequence[int] | None) -> str:
        if tokens is None:
            raise not_finite(example, "logits")
        free = example.kind == "text"  # a strict answer is not made to fit by leaving tokens out
        text = self.model.llm.tokenizer.decode(tokens, skip_special_tokens=free)
        return text.strip(" \n") if free else text

    def _longest(self, example: Example) -> int:
        return self.options.max_new_tokens or _LONGEST[example.kind]
