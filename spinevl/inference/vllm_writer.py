"""Let vLLM write the answers that a model generates: its LLM reads our embeddings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spinevl.config.options import History, PredictOptions
from spinevl.data.packing.collate import Collator, Group
from spinevl.data.packing.image_input import BatchImages
from spinevl.inference.answer import Answer, Outcome
from spinevl.inference.encode import visual_rows_of
from spinevl.inference.talk import Talk
from spinevl.inference.vllm_process import VLLMProcess
from spinevl.inference.writer import Writer
from spinevl.models.generate import Sampling
from spinevl.models.held import half_of
from spinevl.models.splice import splice
from spinevl.models.vlm import VLM
from spinevl.schema.errors import refused
from spinevl.schema.example import Example, Rounds

_MOST_OPEN = 128  # conversations that are answered at the same time
_MOST_KEYS = 2**32  # bytes for their keys and values on a CPU; others wait


@dataclass(frozen=True)
class _Shown:
    """Images, and their visual tokens [R, llm.dim] on the model's device."""

    images: BatchImages
    visual_rows: torch.Tensor


class VLLMWriter(Writer):
    """Writes answers with vLLM. Images, prompts and texts are what they are in Writer.

    Args:
        model: in evaluation mode; of its LLM the embedding table is used.
        collate: see Writer.
        options: how answers are generated.
        engine: is started when there is something to write.
    """

    def __init__(
        self, model: VLM, collate: Collator, options: PredictOptions, engine: VLLMProcess
    ) -> None:
        super().__init__(model, collate, options, bool)
        self.engine = engine

    @torch.inference_mode()
    def answers(self, groups: Sequence[Group], outcome: Outcome) -> Iterator[tuple[int, Answer]]:
        """Greedy answers, each as soon as it is done; the next round of one follows at once.

        Args:
            groups, outcome: see Writer.
        """
        waiting = deque(pair for group in groups for pair in group)
        self.start([example for _, example in waiting])
        talks: dict[int, tuple[int, Talk, _Shown]] = {}

        def ask(index: int, talk: Talk, shown: _Shown, rounds: Rounds) -> None:
            if self.has_room(talk.example, rounds, outcome.problems):
                talks[self._ask(talk.example, rounds, shown)] = (index, talk, shown)

        while waiting or talks:
            while waiting and len(talks) < _MOST_OPEN:
                count = min(len(waiting), self.options.batch_size)
                pairs = [waiting.popleft() for _ in range(count)]
                shown = self._shown([example for _, example in pairs])
                for index, example in pairs:
                    talk = Talk(example, self.options.history)
                    rounds = talk.next()
                    assert rounds is not None
                    ask(index, talk, shown, rounds)
            if not talks:
                continue
            number, tokens = self.engine.answer()
            index, talk, shown = talks.pop(number)
            if (text := self.decoded(talk.example, tokens, outcome)) is None:
                continue
            talk.say(text)
            if (following := talk.next()) is None:
                yield index, Answer(tuple(talk.said))
            else:
                ask(index, talk, shown, following)

    def stream(self, asked: Example, sampling: Sampling | None) -> Iterator[str]:
        """Refused: the engine gives whole answers."""
        raise refused(
            "predict.engine",
            "native, since an answer is read as it is written",
            "vllm",
            "leave predict.engine out",
        )

    def start(self, examples: Sequence[Example]) -> None:
        """Start the engine for some conversations, where it does not take them already."""
        length = min(self.collate.max_length, max(map(self._room, examples)))
        together = min(len(examples), _MOST_OPEN) * length * self._bytes_a_token()
        self.engine.start(
            dtype="bfloat16" if half_of(self.model.llm) else "float32",
            max_length=length,
            end=self.conversation.answer_end(),
            keys_bytes=max(length * self._bytes_a_token(), min(together, _MOST_KEYS)),
        )

    def _room(self, example: Example) -> int:
        """Tokens that a conversation takes at most, with all its answers."""
        own = len(example.rounds) if self.options.history == History.own else 0
        # an answer of our own may take more tokens when it is read than when it was written
        return self.collate.length(example) + self._longest(example) * (1 + 2 * own)

    def _shown(self, examples: Sequence[Example]) -> _Shown:
        images = BatchImages(self.collate.inputs)
        for one in (image for example in examples for image in example.images):
            images.number(one)
        return _Shown(images, visual_rows_of(self.model, images))

    def _ask(self, example: Example, rounds: Rounds, shown: _Shown) -> int:
        """Ask for the next answer of a conversation."""
        symbols = self._symbols(example, rounds, shown.images)
        device = next(self.model.parameters()).device
        ids = torch.from_numpy(np.maximum(symbols, 0)).to(device)
        rows = torch.from_numpy(shown.images.rows(symbols)).to(device)
        text = self.model.llm.embed(ids[None])
        embeddings = splice(text, shown.visual_rows, rows[None])[0]
        return self.engine.ask(embeddings, self._longest(example))
