"""Ask a model: probabilities of every option, or greedy text."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.options import FeatureCacheOptions, History, PredictMode, PredictOptions
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator, Group
from spinevl.data.packing.image_input import BatchImages
from spinevl.data.packing.prompts import lay_out_prompts
from spinevl.data.study import Study
from spinevl.features.store import FeatureCache
from spinevl.inference.devices import predict_device
from spinevl.inference.encode import feature_cache_in, keep_features, visual_rows_of
from spinevl.inference.options import choose, merge_slices, option_logprobs, parse
from spinevl.inference.precision import held_in, ready, settled
from spinevl.models.generate import NOT_FINITE, Sampling, generate, greedy
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import Problems, UserError, refused
from spinevl.schema.example import Example, Rounds
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction

_LONGEST = {"option": 48, "box": 48, "text": 512}  # new tokens, where predict says nothing
_HALF = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for a character that is not whole yet


@dataclass(frozen=True)
class Answer:
    """What a model answers to one example.

    Attributes:
        rounds: (question, answer) of every round, the last one's answer the model's.
        logprobs: label -> log-probability of its option; None where the answer was generated.
    """

    rounds: Rounds
    logprobs: Mapping[int, float] | None = None


class Predictor:
    """Answers examples with one model.

    Args:
        model: the model, in evaluation mode.
        decode: the data source's: an image -> its pixels.
        options: how answers are read off the model. ``choice`` scores every option of a closed
            question, so that no answer is unparsed; all else is generated.
        cache: of the features of frozen encoders.
        each_step: called at each token of generated answers; what it raises ends them.
    """

    def __init__(
        self,
        model: VLM,
        decode: Callable[[ImageRef], np.ndarray],
        *,
        options: PredictOptions | None = None,
        cache: FeatureCache | None = None,
        each_step: Callable[[], object] = bool,
    ) -> None:
        self.model = model
        self.each_step = each_step
        self.options = options or PredictOptions()
        self.cache = cache
        self.collate = Collator(
            model.inputs(),
            ImageStore(decode),
            packing=self.options.packing,
            scoring=self.options.scoring,
        )
        self.conversation = self.collate.conversation

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """One prediction a question of patients, in order; separate slices are merged."""
        answers = dict(self.answers(examples))
        return predictions(examples, [answers[index] for index in range(len(examples))])

    def answers(
        self,
        examples: Sequence[Example],
        *,
        done: Collection[int] = (),
        rank: int = 0,
        of: int = 1,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of each example, batch by batch.

        Args:
            examples: what is asked.
            done: the indices of those whose answers are known; they are not asked again.
            rank, of: where ``of`` processes share the examples, this is number ``rank``, which
                answers every ``of``-th batch. Each must be told the same examples and ``done``.

        Raises:
            UserError: before anything is answered, for examples that do not fit the model.
        """
        asked = map(self._asked, examples)
        left = {index: one for index, one in enumerate(asked) if index not in done}
        self._check(list(left.values()))
        batches = self._batches(left, of)[rank::of]
        if self.cache is not None:
            pairs = [pair for batch in batches for group in batch for pair in group]
            shown = [image for _, one in pairs for image in one.images]
            keep_features(self.model, self.cache, self.collate.inputs, shown)
        return self._answers(batches)

    def _batches(self, left: Mapping[int, Example], of: int) -> list[list[Group]]:
        """The batches of all processes.

        They are those of a single process, so that its numbers come out to the last digit, unless
        some process would have none: then they are smaller.
        """
        numbers = list(left)
        groups: list[Group] = [
            [(numbers[k], one) for k, one in group] for group in grouped(left.values())
        ]
        size = max(1, min(self.options.batch_size, -(-len(groups) // of)))
        return [groups[start : start + size] for start in range(0, len(groups), size)]

    @torch.inference_mode()
    def _answers(self, batches: Sequence[Sequence[Group]]) -> Iterator[tuple[int, Answer]]:
        for batch in batches:
            for scored, answer in ((True, self.score), (False, self.generate)):
                part = [[pair for pair in g if self._scored(pair[1]) is scored] for g in batch]
                if part := [group for group in part if group]:
                    yield from answer(part)

    def _scored(self, example: Example) -> bool:
        return self.options.mode == PredictMode.choice and example.kind == "option"

    def _asked(self, example: Example) -> Example:
        """An example whose last answer is to be generated, without the true one."""
        *before, (question, _) = example.rounds
        rounds = (*before, (question, None))
        return example if self._scored(example) else replace(example, rounds=rounds)

    def _longest(self, example: Example) -> int:
        return self.options.max_new_tokens or _LONGEST[example.kind]

    def _check(self, examples: Sequence[Example]) -> None:
        """Refuse what could not be answered, all before the first answer."""
        if self.conversation.template == "pretrain":
            raise UserError(
                "checkpoint: trained with llm.conversation=pretrain, it ignores questions; train "
                "it further with llm.conversation=medmvl or chat"
            )
        self.collate.check([one for one in examples if self._scored(one)])
        waiting = [one for one in examples if not self._scored(one)]
        for room in sorted({self._longest(one) for one in waiting}):
            self.collate.check([one for one in waiting if self._longest(one) == room], room=room)
        problems = Problems()
        for one in waiting if self.options.history == History.own else ():
            if any(PLACEHOLDER.search(answer) for _, answer in one.rounds if answer):
                problems.append(
                    f"{one.where}: an answer shows an image, and predict.history=own replaces it; "
                    "use predict.history=given"
                )
        problems.raise_any()

    @torch.inference_mode()
    def score(self, groups: Sequence[Group]) -> Iterator[tuple[int, Answer]]:
        """The log-probability of every option of closed questions.

        Raises:
            UserError: one of them is not finite.
        """
        batch = self.collate(groups).to(next(self.model.parameters()).device)
        logprobs = sequence_logprobs(self.model(batch), batch).tolist()
        if len(groups) > 1 and not all(map(math.isfinite, logprobs)):
            # a NaN reaches all that share its row, masked or not: alone, the right one is named
            for group in groups:
                yield from self.score([group])
            return
        examples = dict(pair for group in groups for pair in group)
        for index, options in option_logprobs(batch, logprobs).items():
            if not all(map(math.isfinite, options.values())):
                raise _not_finite(examples[index], "log-probabilities")
            rounds = examples[index].rounds
            text = examples[index].options[max(options, key=options.__getitem__)]
            yield index, Answer((*rounds[:-1], (rounds[-1][0], text)), options)

    @torch.inference_mode()
    def generate(self, groups: Sequence[Group]) -> Iterator[tuple[int, Answer]]:
        """Greedy answers, round after round, to what waits for one."""
        pairs = [pair for group in groups for pair in group]
        said: list[list[tuple[str, str | None]]] = [[] for _ in pairs]
        for turn in range(max(len(example.rounds) for _, example in pairs)):
            asked = []
            for number, (_, example) in enumerate(pairs):
                if turn >= len(example.rounds):
                    continue
                question, answer = example.rounds[turn]
                if answer is None or self.options.history == History.own:
                    asked.append((number, (*said[number], (question, None))))
                else:
                    said[number].append((question, answer))
            texts = self._texts([(pairs[number][1], rounds) for number, rounds in asked])
            for (number, rounds), text in zip(asked, texts, strict=True):
                said[number].append((rounds[-1][0], text))
        for (index, _), answered in zip(pairs, said, strict=True):
            yield index, Answer(tuple(answered))

    def _texts(self, waiting: Sequence[tuple[Example, Rounds]]) -> list[str]:
        """The answers to the last question of some conversations, after what was said."""
        if not waiting:
            return []
        answers = greedy(
            self.model,
            **self._prompts(waiting),
            end_id=self.conversation.answer_end(),
            max_new_tokens=max(self._longest(example) for example, _ in waiting),
            repetition_penalty=self.options.repetition_penalty,
            each_step=self.each_step,
        )
        if None in answers and len(waiting) > 1:
            # a NaN may reach all that are read together: alone, the right one is named
            return [text for one in waiting for text in self._texts([one])]
        return [
            self._decoded(example, tokens)
            for (example, _), tokens in zip(waiting, answers, strict=True)
        ]

    @torch.inference_mode()
    def stream(self, example: Example, sampling: Sampling) -> Iterator[str]:
        """The answer to the last question of a conversation, as far as it is known.

        Yields:
            The whole text so far, after each token, and in the end the answer. With
            ``Sampling()`` that is the one of ``answers``.

        Raises:
            UserError: a conversation that does not fit the model, before anything is yielded, or
                logits that are not finite.
        """
        asked = self._asked(example)
        self._check([asked])
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
                raise _not_finite(example, "logits")
            tokens.append(token)
            text = self._decoded(asked, tokens)
            shown = shown if text.endswith(_HALF) else text
            yield shown
        yield self._decoded(asked, tokens)

    def _prompts(self, waiting: Sequence[tuple[Example, Rounds]]) -> dict[str, Any]:
        """Some conversations, each up to its next answer, as ``generate`` takes them."""
        images = BatchImages(self.collate.inputs)
        prompts = []
        for example, rounds in waiting:
            if self.options.history == History.own:
                # what a model says is text, whatever it looks like
                rounds = tuple((q, a and PLACEHOLDER.sub("", a)) for q, a in rounds)
            symbols, _ = images.expand(self.conversation.dialogue(rounds), example.images)
            room = self._longest(example)
            if len(symbols) + room > self.collate.max_length:
                raise UserError(
                    f"{example.where}: {len(symbols)} tokens and predict.max_new_tokens={room} are "
                    f"more than the {self.collate.max_length} that the LLM takes; lower "
                    "predict.max_new_tokens or shorten the conversation"
                )
            prompts.append(np.array(symbols))
        return {
            "prompts": lay_out_prompts(
                [(prompt, images.rows(prompt)) for prompt in prompts], packing=self.options.packing
            ),
            "visual_rows": visual_rows_of(self.model, images),
        }

    def _decoded(self, example: Example, tokens: Sequence[int] | None) -> str:
        if tokens is None:
            raise _not_finite(example, "logits")
        free = example.kind == "text"  # a strict answer is not made to fit by leaving tokens out
        text = self.model.llm.tokenizer.decode(tokens, skip_special_tokens=free)
        return text.strip(" \n") if free else text


def load_predictor(
    checkpoint: Path,
    study: Study,
    *,
    options: PredictOptions,
    feature_cache: FeatureCacheOptions,
    device: str | None = None,
    allowed: Allowed = OURS,
) -> Predictor:
    """The model of a checkpoint, ready to answer a study's examples.

    Args:
        checkpoint: the folder.
        study: decodes the images, and says where features may be kept.
        options: how to answer.
        feature_cache: whether, and how many, features of a frozen encoder are kept.
        device: where it runs; by default on the GPU where there is one.
        allowed: the classes that may be built.
    """
    device = device or predict_device()
    folder = study.spec.cache_folder
    options = settled(options, checkpoint=checkpoint, device=device, cache_folder=folder)
    held = held_in(options.precision, device)
    loaded = load_checkpoint(checkpoint, allowed=allowed, held=held)
    ready(loaded.model, options.precision).to(device)
    cache = None
    if feature_cache.enabled and loaded.parts["tuning"]["encoder"] == "frozen":
        cache = feature_cache_in(study.spec.cache_folder(), feature_cache)
    return Predictor(loaded.model, study.decode, options=options, cache=cache)


def _not_finite(example: Example, numbers: str) -> UserError:
    """The error for a model that computes no answer to an example."""
    return refused(
        example.where,
        f"finite {numbers} of its answer",
        "NaN or infinity",
        "check its images; if all fail, the checkpoint's weights are too large to compute with",
    )


def predictions(examples: Sequence[Example], answers: Sequence[Answer]) -> list[Prediction]:
    """The predictions that some answers make; separate slices are merged."""
    single = [
        parse(example, answer.rounds[-1][1] or "")
        if answer.logprobs is None
        else choose(example, answer.logprobs)
        for example, answer in zip(examples, answers, strict=True)
    ]
    return merge_slices(examples, single)
