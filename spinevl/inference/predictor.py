"""Ask a model: probabilities of every option, or greedy text."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.check import checked
from spinevl.config.options import (
    Attention,
    Compile,
    FeatureCacheOptions,
    PredictMode,
    PredictOptions,
)
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator, Group
from spinevl.data.study import ConversationStudy, Study
from spinevl.features.key import encoder_key
from spinevl.features.store import FeatureCache
from spinevl.inference.answer import Answer, Hopeless, Outcome, Unanswered
from spinevl.inference.arriving import Arriving
from spinevl.inference.devices import predict_device
from spinevl.inference.encode import feature_cache_in, keep_features
from spinevl.inference.options import choose, merge_slices, option_logprobs, parse
from spinevl.inference.precision import held_in, pack_weights, ready, settled
from spinevl.inference.vllm_process import VLLMProcess
from spinevl.inference.vllm_writer import VLLMWriter
from spinevl.inference.writer import Writer
from spinevl.io.memory import give_back_memory
from spinevl.models import packed
from spinevl.models.generate import Sampling
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.batch import Batch
from spinevl.schema.errors import UserError, refused
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.prediction import Prediction

_CONVERSATIONS = 8  # in place of a patient: a step reads every weight, for one token or for many
_FEWEST_BATCHES = 4  # of closed questions, where one is laid out while a GPU computes another


class Predictor:
    """Answers examples with one model.

    Args:
        model: the model, in evaluation mode.
        decode: the data source's: an image -> its pixels.
        options: how answers are read off the model; they are copied, and members of enums may be
            told as texts (``attention="blocks"``). ``choice`` scores every option of a closed
            question, so that no answer is unparsed; all else is generated.
        cache: of the features of frozen encoders, whose weights must stay as they are: they are
            hashed once.
        each_step: called at each token of generated answers; what it raises ends them.
        engine: generates in place of the model, which may have let its decoder go.

    Several may share a model if one thread uses them.

    Raises:
        UserError: options that are no options of predict.
        RuntimeError: plain layers of a model whose weights are packed.
        ValueError: the model is compiled, and the options are not to.
    """

    def __init__(
        self,
        model: VLM,
        decode: Callable[[ImageRef], np.ndarray],
        *,
        options: PredictOptions | None = None,
        cache: FeatureCache | None = None,
        each_step: Callable[[], object] = bool,
        engine: VLLMProcess | None = None,
    ) -> None:
        self.model = model
        self.options = checked(options or PredictOptions(), at="predict")
        if self.options.plain_layers:
            packed.require_unpacked(model, "be computed plainly")
        self._take_model()
        if self.options.compile != Compile.none:
            model.llm.compile(cuda_graphs=self.options.compile == Compile.cuda_graphs)
        elif model.llm.is_compiled:
            raise ValueError("another Predictor has compiled the model; load it again")
        self.cache = cache
        branches = model.vision_branches().items() if cache is not None else ()
        self._keys = {modality: encoder_key(branch.encoder) for modality, branch in branches}
        self.collate = Collator(
            model.inputs(),
            ImageStore(decode),
            packing=self.options.packing,
            attention=self.options.attention,
            scoring=self.options.scoring,
        )
        self.writer = Writer(model, self.collate, self.options, each_step)
        self.in_batches = engine is None  # an engine fills its batches itself
        if engine is not None:
            self.writer = VLLMWriter(model, self.collate, self.options, engine)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def ahead(self) -> int:
        """Batches of closed questions that are laid out before the one before them is read.

        A GPU computes meanwhile; on a CPU nobody gains, and answers would come later.
        """
        return 1 if self.device.type == "cuda" else 0

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
            UserError: before anything is answered, for examples that do not fit the model; later
                for an image that cannot be read.
            Hopeless: the first patients have no finite numbers.
            Unanswered: after the answers to all others, some answers have numbers that are not
                finite, or conversations that have outgrown the model.
        """
        asked = map(self._asked, examples)
        left = {index: one for index, one in enumerate(asked) if index not in done}
        self._check(list(left.values()))
        batches = self._batches(left, of)[rank::of]
        if self.cache is not None:
            pairs = [pair for batch in batches for group in batch for pair in group]
            shown = [image for _, one in pairs for image in one.images]
            own = self._with_own_inputs()
            self._take_model()
            keep_features(self.model, self.cache, own.collate.inputs, shown, keys=self._keys)
            return own._answers(batches)
        return self._answers(batches)

    def _with_own_inputs(self) -> Predictor:
        """The same for one call; see Collator."""
        own = copy.copy(self)
        own.collate, own.writer = self.collate.with_own_inputs(), copy.copy(self.writer)
        own.writer.collate = own.collate
        return own

    def _batches(self, left: Mapping[int, Example], of: int) -> list[list[Group]]:
        """The batches of all processes.

        They are those of a single process, so that its numbers come out to the last digit, unless
        some process would have none: then they are smaller. Closed questions that one GPU answers
        make several batches, so that there is one to lay out while it computes.
        """
        numbers = list(left)
        groups: list[Group] = [
            [(numbers[k], one) for k, one in group] for group in grouped(left.values())
        ]
        most = self.options.batch_size
        if left and all(one.kind == "text" for one in left.values()):
            most *= _CONVERSATIONS
        if self.ahead and all(map(self._scored, left.values())):
            most = min(most, -(-len(groups) // _FEWEST_BATCHES))
        size = max(1, min(most, -(-len(groups) // of)))
        return [groups[start : start + size] for start in range(0, len(groups), size)]

    @torch.inference_mode()
    def _answers(self, batches: Sequence[Sequence[Group]]) -> Iterator[tuple[int, Answer]]:
        waiting: list[_Computing] = []
        written: list[Group] = []
        outcome = Outcome()
        try:
            for batch in batches:
                self._take_model()
                if scored := self._part(batch, scored=True):
                    waiting.append(self._computing(scored))
                    yield from self._read(waiting, outcome, keep=self.ahead)
                written += self._part(batch, scored=False)
                if written and self.in_batches:
                    yield from self.writer.answers(written, outcome)
                    written = []
            yield from self._read(waiting, outcome)
            if written:
                yield from self.writer.answers(written, outcome)
        except Hopeless:
            raise
        except Exception as error:  # what was asked before is answered, and told
            yield from self._read(waiting, outcome)
            if isinstance(error, UserError) and outcome.problems:
                raise UserError([*outcome.problems, *error.problems]) from error
            raise
        if outcome.problems:
            raise Unanswered(outcome.problems)

    def _take_model(self) -> None:
        """Let the model compute as this predictor's options say; others may share it."""
        self.model.compute_plainly(self.options.plain_layers)

    def _part(self, batch: Sequence[Group], *, scored: bool) -> list[Group]:
        parts = ([pair for pair in g if self._scored(pair[1]) is scored] for g in batch)
        return [part for part in parts if part]

    def _scored(self, example: Example) -> bool:
        return is_scored(example, self.options)

    def _asked(self, example: Example) -> Example:
        """An example whose last answer is to be generated, without the true one."""
        *before, (question, _) = example.rounds
        rounds = (*before, (question, None))
        return example if self._scored(example) else replace(example, rounds=rounds)

    def _check(self, examples: Sequence[Example]) -> None:
        """Refuse what could not be answered, all before the first answer."""
        if self.collate.conversation.template == "pretrain":
            raise UserError(
                "checkpoint: trained with llm.conversation=pretrain, it ignores questions; train "
                "it further with llm.conversation=medmvl or chat"
            )
        self.collate.check([one for one in examples if self._scored(one)])
        self.writer.check([one for one in examples if not self._scored(one)])

    def stream(self, example: Example, sampling: Sampling | None = None) -> Iterator[str]:
        """The answer to the last question of a conversation, as far as it is known.

        Args:
            example: what is asked.
            sampling: how tokens are chosen; by default as ``answers`` chooses them.

        Yields:
            The whole text so far, after each token, and in the end the answer.

        Raises:
            UserError: a conversation that does not fit the model, before anything is yielded, or
                logits that are not finite.
        """
        asked = self._asked(example)
        self._check([asked])
        self._take_model()
        yield from self.writer.stream(asked, sampling)

    def _computing(self, groups: Sequence[Group]) -> _Computing:
        """The log-probabilities of options, which the device may still have to compute."""
        batch = self.collate(groups)
        there = batch.to(self.device)
        logprobs = Arriving(sequence_logprobs(self.model(there), there))
        # read as it was laid out: what is on a GPU can be had only behind all that it is told
        return _Computing(groups, batch.without_inputs(), logprobs)

    def _read(
        self, waiting: list[_Computing], outcome: Outcome, keep: int = 0
    ) -> Iterator[tuple[int, Answer]]:
        """The answers of all that is waiting but the last ``keep``, which stay."""
        while len(waiting) > keep:
            yield from self._chosen(waiting.pop(0), outcome)

    def _chosen(self, one: _Computing, outcome: Outcome) -> Iterator[tuple[int, Answer]]:
        """The log-probability of every option of closed questions."""
        logprobs = one.logprobs.here().tolist()
        if len(one.groups) > 1 and not all(map(math.isfinite, logprobs)):
            # a NaN reaches all that share its row, masked or not: alone, the right one is named
            for group in one.groups:
                yield from self._chosen(self._computing([group]), outcome)
            return
        examples = dict(pair for group in one.groups for pair in group)
        for index, options in option_logprobs(one.batch, logprobs).items():
            if not all(map(math.isfinite, options.values())):
                outcome.not_finite(examples[index], "log-probabilities")
                continue
            outcome.answered()
            rounds = examples[index].rounds
            text = examples[index].options[max(options, key=options.__getitem__)]
            yield index, Answer((*rounds[:-1], (rounds[-1][0], text)), options)


@dataclass(frozen=True)
class _Computing:
    """Closed questions whose options are being scored.

    Attributes:
        groups: of the batch.
        batch: as it is laid out, on the CPU.
        logprobs: of each of its sequences.
    """

    groups: Sequence[Group]
    batch: Batch
    logprobs: Arriving


def is_scored(example: Example, options: PredictOptions) -> bool:
    """Whether the options of a question are scored; all other answers are generated."""
    return options.mode == PredictMode.choice and example.kind == "option"


def load_predictor(
    checkpoint: Path,
    study: Study,
    *,
    options: PredictOptions,
    feature_cache: FeatureCacheOptions,
    device: str | None = None,
    allowed: Allowed = OURS,
    engine: VLLMProcess | None = None,
) -> Predictor:
    """The model of a checkpoint, ready to answer a study's examples.

    Args:
        checkpoint: the folder.
        study: decodes the images, and says where features may be kept.
        options: how to answer.
        feature_cache: whether, and how many, features of a frozen encoder are kept.
        device: where it runs; by default on the GPU where there is one.
        allowed: the classes that may be built.
        engine: see Predictor.
    """
    options = checked(options, at="predict")
    device = device or predict_device()
    if options.attention == Attention.flex and torch.device(device).type != "cuda":
        raise refused(
            "predict.attention=flex",
            "a CUDA GPU, since FlexAttention holds all scores on other devices",
            device,
            "take predict.attention=blocks",
        )
    folder = study.spec.cache_folder
    options = settled(options, checkpoint=checkpoint, device=device, cache_folder=folder)
    held = held_in(options.precision)
    loaded = load_checkpoint(checkpoint, allowed=allowed, held=held)
    ready(loaded.model, options.precision)
    if options.attention == Attention.flex:
        loaded.model.llm.check_flex(learn=False)
    written = isinstance(study, ConversationStudy) or options.mode == PredictMode.generate
    if engine is not None and written:
        loaded.model.llm.keep_embeddings_alone()
        give_back_memory()
    loaded.model.to(device)
    if engine is None:
        pack_weights(loaded.model, options, writes=written)
    cache = None
    if feature_cache.enabled and loaded.parts["tuning"]["encoder"] == "frozen":
        cache = feature_cache_in(study.spec.cache_folder(), feature_cache)
    return Predictor(loaded.model, study.decode, options=options, cache=cache, engine=engine)


def predictions(examples: Sequence[Example], answers: Sequence[Answer]) -> list[Prediction]:
    """The predictions that some answers make; separate slices are merged."""
    single = [
        parse(example, answer.rounds[-1][1] or "")
        if answer.logprobs is None
        else choose(example, answer.logprobs)
        for example, answer in zip(examples, answers, strict=True)
    ]
    return merge_slices(examples, single)
