"""Let a model write: greedy answers round after round, or one answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from spinevl.config.options import History, PredictOptions
from spinevl.data.packing.collate import Collator, Group
from spinevl.data.packing.conversation import TokenSequence
from spinevl.data.packing.image_input import BatchImages, length
from spinevl.data.packing.prompts import lay_out_prompts
from spinevl.inference.answer import Answer, Outcome, not_finite
from spinevl.inference.encode import visual_rows_of
from spinevl.inference.talk import Talk
from spinevl.models.generate import NOT_FINITE, Sampling, generate, greedy
from spinevl.models.vlm import VLM
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import Problems
from spinevl.schema.example import Example, Rounds

_KEYS_BYTES = 2**31  # of answers that are written together
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

    def _bytes_a_token(self) -> int:
        """What keys and values of a token take."""
        config = self.model.llm.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = self.model.llm.head_dim
        size = self.model.llm.model.get_input_embeddings().weight.element_size()
        return int(2 * config.num_hidden_layers * heads * width * size)

    @torch.inference_mode()
    def answers(self, groups: Sequence[Group], outcome: Outcome) -> Iterator[tuple[int, Answer]]:
        """Greedy answers, round after round, to what waits for one.

        Args:
            groups: what is asked.
            outcome: is told of those that have no answer: the model's own answers left no room for
                another one, or its numbers were not finite.
        """
        for some in self._parts(groups):
            yield from self._answers(some, outcome)

    def _parts(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """Groups that are answered together: their keys and values fit, as if none were shared."""
        room, a_token = self._keys_bytes(), self._bytes_a_token()
        part: list[Group] = []
        taken = 0
        for group in groups:
            size = a_token * sum(self.collate.length(one) + self._longest(one) for _, one in group)
            if part and taken + size > room:
                yield part
                part, taken = [], 0
            part.append(group)
            taken += size
        if part:
            yield part

    def _keys_bytes(self) -> int:
        """What keys and values may take: on a GPU half of the memory that is free."""
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0] // 2)
        return _KEYS_BYTES

    def _answers(self, groups: Sequence[Group], outcome: Outcome) -> Iterator[tuple[int, Answer]]:
        pairs = [pair for group in groups for pair in group]
        going_on = {index: Talk(example, self.options.history) for index, example in pairs}
        ended: list[tuple[int, Answer]] = []
        try:
            while going_on:
                asked: dict[int, tuple[Example, Rounds]] = {}
                for index, talk in going_on.items():
                    if (rounds := talk.next()) is None:
                        ended.append((index, Answer(tuple(talk.said))))
                    elif self.has_room(talk.example, rounds, outcome.problems):
                        asked[index] = talk.example, rounds
                texts = self._texts(list(asked.values()), outcome) if asked else []
                said = {
                    index: text
                    for index, text in zip(asked, texts, strict=True)
                    if text is not None
                }
                going_on = {index: going_on[index] for index in said}
                for index, text in said.items():
                    going_on[index].say(text)
        except Exception:  # what has ended is told, whatever became of the others
            yield from ended
            raise
        yield from sorted(ended, key=itemgetter(0))

    def _texts(
        self, waiting: Sequence[tuple[Example, Rounds]], outcome: Outcome
    ) -> list[str | None]:
        """The answers to the last question of some conversations, after what was said.

        None stands for one whose numbers were not finite, which is noted.
        """
        rooms = [self._longest(example) for example, _ in waiting]
        if len(set(rooms)) > 1:  # an answer is as long as it would be alone
            texts: list[str | None] = [None] * len(waiting)
            for room in sorted(set(rooms)):
                of_it = [number for number, one in enumerate(rooms) if one == room]
                found = self._texts([waiting[number] for number in of_it], outcome)
                for number, text in zip(of_it, found, strict=True):
                    texts[number] = text
            return texts
        answers = greedy(
            self.model,
            **self._prompts(waiting),
            end_id=self.conversation.answer_end(),
            max_new_tokens=rooms[0],
            repetition_penalty=self.options.repetition_penalty,
            each_step=self.each_step,
        )
        # a NaN may reach others that are read together: alone, the right one is named
        return [
            self._texts([one], outcome)[0]
            if tokens is None and len(waiting) > 1
            else self.decoded(one[0], tokens, outcome)
            for one, tokens in zip(waiting, answers, strict=True)
        ]

    def decoded(
        self, example: Example, tokens: Sequence[int] | None, outcome: Outcome
    ) -> str | None:
        """The text of an answer; None where its numbers were not finite, which is noted."""
        if tokens is None:
            outcome.not_finite(example, "logits")
            return None
        outcome.answered()
        return self._decoded(example, tokens)

    @torch.inference_mode()
    def stream(self, asked: Example, sampling: Sampling | None) -> Iterator[str]:
        """See Predictor.stream."""
        sampling = sampling or Sampling(repetition_penalty=self.options.repetition_penalty)
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
            self.each_step()
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
            "shorten it, which keeps the answers to all others, or lower predict.max_new_tokens",
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

    def _decoded(self, example: Example, tokens: Sequence[int]) -> str:
        free = example.kind == "text"  # a strict answer is not made to fit by leaving tokens out
        text = self.model.llm.tokenizer.decode(tokens, skip_special_tokens=free)
        return text.strip(" \n") if free else text

    def _longest(self, example: Example) -> int:
        return self.options.max_new_tokens or _LONGEST[example.kind]
