"""Examples in, answers out: scored or generated, in order, each asked once."""

from __future__ import annotations

import copy
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spinevl.config.options import History, PredictMode, PredictOptions
from spinevl.features.store import FeatureCache
from spinevl.inference import predictor as predictor_module
from spinevl.inference import writer
from spinevl.inference.answer import Answer, Hopeless, Outcome, Unanswered
from spinevl.inference.predictor import Predictor, predictions
from spinevl.inference.writer import Writer
from spinevl.models import packed
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM, TinyLLM
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

TOKEN = 2 * 2 * 32 * 4  # bytes of keys and values: layers, width, float32
OPTIONS = ("A.normal", "B.straight", "C.reverse")


def question(patient: str, number: int, *, level: str = "") -> Example:
    image = ImageRef(f"{patient}/{number}", patient=patient, plane="sagittal", slice=number)
    rounds = ((f"<image>\nCurve {level}?", None),)
    return Example(Key(patient, "qd", level), (image,), rounds, kind="option", options=OPTIONS)


def place(patient: str, number: int) -> Example:
    return replace(question(patient, number, level="C3"), kind="box", options=())


def talk(*rounds: tuple[str, str | None], images: int = 1) -> Example:
    shown = tuple(ImageRef(f"talk/{number}") for number in range(images))
    return Example(Key("7", ""), shown, rounds, source="file.json: record 3 (id 7)")


EXAMPLES = [
    question("a", 5),
    place("a", 5),
    question("b", 5),
    talk(("<image>\nCurve?", "Straight."), ("Sure?", "true")),
    question("a", 6),
    question("b", 6),
    place("a", 6),
]


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, llm).eval().requires_grad_(False)


def decode(image: ImageRef) -> np.ndarray:
    rng = np.random.default_rng(list(image.path.encode()))
    return rng.integers(0, 255, (64, 64), dtype=np.uint8)


def predictor(model: VLM, *, cache: FeatureCache | None = None, **options: Any) -> Predictor:
    given = {"max_new_tokens": 4, **options}
    return Predictor(model, decode, options=PredictOptions(**given), cache=cache)


@pytest.mark.parametrize(
    "told",
    [
        {"mode": "choice", "scoring": "trie", "packing": "tree", "attention": "blocks"},
        {"mode": "choice", "scoring": "full", "packing": "off"},
        {"mode": "generate", "packing": "plain", "history": "own", "attention": "blocks"},
    ],
)
def test_options_may_be_told_as_texts(
    model: VLM, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PredictOptions takes them in Python, where no config turns them into members of enums."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "flex_attention", None)  # not asked for
    kinds = {name: type(getattr(PredictOptions(), name))(value) for name, value in told.items()}
    expected = dict(predictor(model, **kinds).answers(EXAMPLES))
    found = predictor(model, **told)
    assert {name: type(getattr(found.options, name)) for name in told} == {
        name: type(kind) for name, kind in kinds.items()
    }
    assert dict(found.answers(EXAMPLES)) == expected


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"attention": "blokcs"}, "predict.attention"),
        ({"batch_size": 0}, "predict.batch_size"),
        ({"compile": "cuda_graphs"}, "predict.attention"),
        ({"repetition_penalty": math.nan}, "predict.repetition_penalty"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    model: VLM, told: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        predictor(model, **told)


def test_batches_that_are_laid_out_ahead_are_answered_alike(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(predictor(model, batch_size=1).answers(EXAMPLES))
    monkeypatch.setattr(Predictor, "ahead", 1)
    found = list(predictor(model, batch_size=1).answers(EXAMPLES))
    assert dict(found) == dict(expected)
    assert [index for index, _ in found] != [index for index, _ in expected]


def test_what_is_computed_when_another_batch_fails_is_answered(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "ahead", 1)

    def no_image_of_b(image: ImageRef) -> np.ndarray:
        if image.patient == "b":
            raise UserError(f"{image.path}: not an image")
        return decode(image)

    asked = Predictor(model, no_image_of_b, options=PredictOptions(batch_size=1))
    answered = []
    answers = asked.answers([question(patient, 5) for patient in "acbd"])
    with pytest.raises(UserError, match="b/5: not an image"):
        answered.extend(index for index, _ in answers)
    assert answered == [0, 1]


@pytest.mark.parametrize(
    ("ahead", "kind", "sizes"),
    [
        *((0, "option", [16, 4]), (1, "option", [5, 5, 5, 5])),
        (1, "box", [16, 4]),  # what is generated gains from large batches alone
    ],
)
def test_a_gpu_gets_closed_questions_in_several_batches(
    model: VLM, monkeypatch: pytest.MonkeyPatch, ahead: int, kind: Any, sizes: list[int]
) -> None:
    monkeypatch.setattr(Predictor, "ahead", ahead)
    asked = [replace(question(f"p{k}", 5), kind=kind) for k in range(20)]
    batches = predictor(model)._batches(dict(enumerate(asked)), 1)
    assert [len(batch) for batch in batches] == sizes
    both = predictor(model)._batches(dict(enumerate(asked)), 2)
    assert [len(batch) for batch in both] == ([5] * 4 if ahead and kind == "option" else [10, 10])


def test_what_was_scored_is_answered_when_the_writer_fails(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "ahead", 1)
    asked = predictor(model, batch_size=1)

    def fails(groups: Any, outcome: Outcome) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(asked.writer, "answers", fails)
    answered: list[int] = []
    answers = asked.answers([question("a", 5), question("b", 5), place("b", 5)])
    with pytest.raises(RuntimeError, match="out of memory"):
        answered.extend(index for index, _ in answers)
    assert answered == [0, 1]


def test_closed_questions_are_scored_and_the_rest_is_generated(model: VLM) -> None:
    answers = dict(predictor(model).answers(EXAMPLES))
    assert sorted(answers) == list(range(len(EXAMPLES)))
    for index, example in enumerate(EXAMPLES):
        answer = answers[index]
        assert [q for q, _ in answer.rounds] == [q for q, _ in example.rounds]
        if example.kind == "option":
            assert set(answer.logprobs or {}) == {0, 1, 2}
            best = max(answer.logprobs, key=answer.logprobs.__getitem__)  # type: ignore[union-attr, arg-type]
            assert answer.rounds[-1][1] == OPTIONS[best]
        else:
            assert answer.logprobs is None
            assert isinstance(answer.rounds[-1][1], str)
    assert answers[3].rounds[0] == ("<image>\nCurve?", "Straight.")


def test_generate_mode_generates_closed_questions_too(model: VLM) -> None:
    answers = dict(predictor(model, mode=PredictMode.generate).answers(EXAMPLES))
    assert all(answer.logprobs is None for answer in answers.values())


@pytest.mark.parametrize("mode", list(PredictMode))
def test_answers_depend_neither_on_the_batch_nor_on_the_true_answer_nor_on_a_cache(
    model: VLM, tmp_path: Any, mode: PredictMode
) -> None:
    together = dict(predictor(model, mode=mode).answers(EXAMPLES))
    cache = FeatureCache(tmp_path, max_bytes=10**9)
    told = [
        replace(one, rounds=(*one.rounds[:-1], (one.rounds[-1][0], "the truth")), truth="the truth")
        for one in EXAMPLES
    ]
    for other in (
        dict(predictor(model, mode=mode, batch_size=1).answers(EXAMPLES)),
        dict(predictor(model, mode=mode, cache=cache).answers(EXAMPLES)),
        dict(predictor(model, mode=mode).answers(told)),
    ):
        for index, answer in together.items():
            assert other[index].rounds == answer.rounds
            if answer.logprobs is not None:
                assert other[index].logprobs == pytest.approx(answer.logprobs, abs=1e-5)


def test_what_is_answered_already_is_not_asked_again(model: VLM) -> None:
    asking = predictor(model)
    whole = dict(asking.answers(EXAMPLES))
    done = {index: whole[index] for index in (0, 2, 3)}
    rest = dict(asking.answers(EXAMPLES, done=done))
    assert sorted(rest) == [1, 4, 5, 6]
    for index, answer in rest.items():
        assert answer.rounds == whole[index].rounds
    assert list(asking.answers(EXAMPLES, done=whole)) == []


@pytest.mark.parametrize("of", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_processes_share_all_examples_and_none_is_asked_twice(
    model: VLM, of: int, batch_size: int
) -> None:
    asking = predictor(model, batch_size=batch_size)
    whole = dict(asking.answers(EXAMPLES, done=[5]))
    shares = [dict(asking.answers(EXAMPLES, done=[5], rank=r, of=of)) for r in range(of)]
    assert sorted(index for share in shares for index in share) == sorted(whole)
    assert sum(map(bool, shares)) == min(of, 3)  # a, b and the conversation
    for index, one in (pair for share in shares for pair in share.items()):
        assert one.rounds == whole[index].rounds
        if one.logprobs is not None:
            assert one.logprobs == pytest.approx(whole[index].logprobs, rel=1e-6)


def test_conversations_are_answered_together_as_far_as_their_keys_fit(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [replace(talk(("<image>?", None)), key=Key(str(k), "")) for k in range(140)]
    asking = predictor(model)
    batches = asking._batches(dict(enumerate(many)), 1)
    assert list(map(len, batches)) == [128, 12]
    assert list(map(len, asking._batches(dict(enumerate(many)), 7))) == [20] * 7
    room = asking.collate.length(many[0]) + 4
    for keys, sizes in ((32 * TOKEN * room, [32] * 4), (1, [1] * 128)):
        monkeypatch.setattr(writer, "_KEYS_BYTES", keys)
        assert list(map(len, asking.writer._parts(batches[0]))) == sizes


def test_patients_are_answered_together_as_far_as_their_keys_fit(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [question(f"p{k}", 5) for k in range(9)]
    boxes = [replace(asked[k], kind="box") for k in (0, 0, 3, 4, 8)]  # two of one patient
    asking = predictor(model)
    everything = [*asked, *boxes]
    (batch,) = asking._batches(dict(enumerate(everything)), 1)
    assert len(batch) == 9  # whatever is written together
    groups = asking._part(batch, scored=False)
    box = TOKEN * (asking.collate.length(boxes[0]) + 4)
    together = dict(asking.answers(everything))
    for keys, sizes in ((5 * box, [4]), (3 * box, [2, 2]), (2 * box, [1, 2, 1]), (1, [1] * 4)):
        monkeypatch.setattr(writer, "_KEYS_BYTES", keys)
        assert list(map(len, asking.writer._parts(groups))) == sizes
        for index, one in asking.answers(everything):
            assert one.rounds == together[index].rounds


def test_slices_asked_apart_are_merged_and_boxes_are_not(model: VLM) -> None:
    asked = [one for one in EXAMPLES if one.kind != "text"]
    found = predictor(model).predict(asked)
    assert [(one.id, one.task, one.object, one.slices) for one in found] == [
        ("a", "qd", "", (5, 6)),
        ("a", "qd", "C3", (5,)),
        ("b", "qd", "", (5, 6)),
        ("a", "qd", "C3", (6,)),
    ]
    answers = dict(predictor(model).answers(asked))
    tables = [answers[index].logprobs for index in (0, 3)]
    logs = np.array([[table[label] for label in range(3)] for table in tables])  # type: ignore[index]
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    mean = np.exp(logs.mean(0))
    assert found[0].probabilities == pytest.approx(dict(enumerate(mean / mean.sum())))
    assert found[0].choice == int(mean.argmax())
    assert found[0].text == OPTIONS[found[0].choice]


def test_generated_answers_are_parsed_strictly() -> None:
    one, other, box = question("a", 5), question("a", 6), place("a", 5)

    def said(*texts: str) -> list[Answer]:
        return [Answer((("?", text),)) for text in texts]

    assert [p.choice for p in predictions([one], said(" C.reverse\n"))] == [2]
    assert [p.choice for p in predictions([one], said("c.reverse"))] == [None]
    assert [p.choice for p in predictions([one], said("C.reverse."))] == [None]
    (merged,) = predictions([one, other], said("B.straight", "what?"))
    assert (merged.choice, merged.text, merged.slices) == (1, "B.straight | what?", (5, 6))
    (tie,) = predictions([one, other], said("C.reverse", "A.normal"))
    assert tie.choice == 0
    (found,) = predictions([box], said("<ref>C3<ref><box>(1,2),(3,4)<box>"))
    assert found.box is not None
    assert (found.box.x1, found.box.y2) == (1, 4)
    (lost,) = predictions([box], said("<ref>C4<ref><box>(1,2),(3,4)<box>"))
    assert lost.box is None


def test_the_models_own_answers_replace_the_files(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = talk(("<image>\nCurve?", "Straight."), ("Sure?", None))
    texts: Iterator[str] = iter(["mine <image>", "later"])
    asked = []

    def decoded(self: Writer, example: Example, tokens: Any) -> str:
        return next(texts)

    def dialogue(rounds: Any) -> Any:
        asked.append(tuple(rounds))
        return real(rounds)

    asking = predictor(model, history=History.own)
    real = asking.collate.conversation.dialogue
    monkeypatch.setattr(Writer, "_decoded", decoded)
    answers = asking.answers([example])
    monkeypatch.setattr(asking.collate.conversation, "dialogue", dialogue)
    ((_, answer),) = answers
    assert answer.rounds == (("<image>\nCurve?", "mine <image>"), ("Sure?", "later"))
    # an image that a model writes is text, and shows none
    assert (("<image>\nCurve?", "mine "), ("Sure?", None)) in asked


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_conversation_that_outgrows_the_model_costs_no_other_its_answer(
    model: VLM, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(Writer, "_decoded", lambda *_: "word " * 20)
    monkeypatch.setattr(predictor_module, "_CONVERSATIONS", 1)
    asking = predictor(model, history=History.own, batch_size=batch_size)
    shown, more = ("<image>\nCurve?", None), ("Sure?", None)
    asked = [talk(shown), talk(shown, *5 * [more]), talk(shown, more), talk(*9 * [more], images=0)]
    asking.collate.max_length = asking.collate.length(asked[2]) + 150
    found: dict[int, Answer] = {}
    with pytest.raises(Unanswered) as caught:
        deque(starmap(found.__setitem__, asking.answers(asked)), maxlen=0)
    assert {index: len(one.rounds) for index, one in found.items()} == {0: 1, 2: 2}
    assert len(caught.value.problems) == 2
    for problem in caught.value.problems:
        assert re.fullmatch(
            r"file\.json: record 3 \(id 7\): expected at most \d+ tokens, which the LLM takes, "
            r"found \d+ in front of answer \d, and predict\.max_new_tokens=4; shorten it, .*",
            str(problem),
        )


@pytest.mark.parametrize("history", list(History))
def test_what_is_not_finite_costs_no_other_its_answer(
    model: VLM, monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    asking = predictor(model, history=history, batch_size=2)
    monkeypatch.setattr(predictor_module, "_CONVERSATIONS", 1)
    asked = [
        replace(
            talk(("<image>?", "So."), (f"{name}?", None)),
            key=Key(name, ""),
            source=f"file.json: {name}",
        )
        for name in ("one", "bad", "two", "three", "worse")
    ]
    said = Writer.decoded

    def decoded(self: Writer, example: Example, tokens: Any, outcome: Outcome) -> str | None:
        return said(self, example, None if "bad" in example.where else tokens, outcome)

    monkeypatch.setattr(Writer, "decoded", decoded)
    found: dict[int, Answer] = {}
    with pytest.raises(Unanswered, match=r"^file\.json: bad: expected finite logits of its answer"):
        deque(starmap(found.__setitem__, asking.answers(asked)), maxlen=0)
    assert sorted(found) == [0, 2, 3, 4]
    monkeypatch.setattr(Writer, "decoded", lambda self, one, _, out: said(self, one, None, out))
    with pytest.raises(UserError) as caught:  # of weights that are at fault no more is asked
        deque(asking.answers(asked), maxlen=0)
    assert [str(one).split(": ")[1] for one in caught.value.problems] == [
        *("one", "bad", "two", "three")
    ]
    assert not isinstance(caught.value, Unanswered)


def test_predictors_that_share_a_model_compute_each_in_its_own_way(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fast = predictor(model, plain_layers=True), predictor(model)
    ways: list[bool] = []
    real = CausalLM.hidden

    def hidden(self: CausalLM, *given: Any, **options: Any) -> torch.Tensor:
        ways.append(self.plain_layers)
        return real(self, *given, **options)

    monkeypatch.setattr(CausalLM, "hidden", hidden)
    for one in (plain, fast, plain):
        dict(one.answers(EXAMPLES[:1]))
        deque(one.stream(talk(("<image>?", None))), maxlen=0)
    turns = [way for k, way in enumerate(ways) if not k or ways[k - 1] != way]
    assert turns == [True, False, True]


def test_a_model_that_was_changed_for_another_predictor_is_refused(model: VLM) -> None:
    changed = copy.deepcopy(model)
    changed.llm.compile()
    with pytest.raises(ValueError, match="another Predictor has compiled the model"):
        predictor(changed)
    changed = copy.deepcopy(model)
    packed.pack(changed.llm.model)
    if packed.PackedLinear in map(type, changed.modules()):
        with pytest.raises(RuntimeError, match="packed weights cannot be computed plainly"):
            predictor(changed, plain_layers=True)


def test_calls_with_kept_features_do_not_disturb_each_other(model: VLM, tmp_path: Path) -> None:
    asking = predictor(model, cache=FeatureCache(tmp_path, max_bytes=10**9), batch_size=1)
    asked = [[question("a", 5), place("b", 5)], [question("c", 6), place("d", 6)]]
    wanted = [dict(asking.answers(some)) for some in asked]
    calls = [asking.answers(some) for some in asked]
    found: list[dict[int, Answer]] = [{}, {}]
    for _ in range(2):
        for call, answers in zip(calls, found, strict=True):
            answers |= dict([next(call)])
    assert found == wanted
    said = dict(asking.answers([talk(("<image>?", None))]))[0].rounds[-1][1]
    assert [*asking.stream(talk(("<image>?", None)))][-1] == said


def test_what_cannot_be_answered_is_refused_before_the_first_answer(model: VLM) -> None:
    long = talk(("<image>\n" + "word " * 120, None))
    limit = model.llm.max_length
    with pytest.raises(UserError) as caught:
        predictor(model, max_new_tokens=limit - 100).answers([EXAMPLES[0], long])
    (problem,) = caught.value.problems
    assert str(problem).startswith("file.json: record 3 (id 7): ")
    assert f"at most {limit} tokens" in str(problem)
    assert f"predict.max_new_tokens={limit - 100}" in str(problem)
    shown = talk(("<image>?", "See <image>."), ("And?", None), images=2)
    with pytest.raises(UserError, match=r"record 3 \(id 7\): .* predict\.history=own replaces it"):
        predictor(model, history=History.own).answers([shown])
    volume = replace(long, images=(ImageRef("v", modality="image3d"),))
    with pytest.raises(UserError, match=r"record 3 \(id 7\): .*<image3d>"):
        predictor(model).answers([volume])


def test_what_is_answered_beside_a_bad_patient_is_not_asked_again(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = writer.greedy

    def one_fails(*given: Any, prompts: Any, **options: Any) -> list[list[int] | None]:
        answers = real(*given, prompts=prompts, **options)
        asked.append(len(answers))
        return [None if len(answers) > 1 and k == 2 else one for k, one in enumerate(answers)]

    asking = predictor(model, mode=PredictMode.generate)
    expected = {index: one.rounds for index, one in asking.answers(EXAMPLES[:4])}
    monkeypatch.setattr(writer, "greedy", one_fails)
    found = {index: one.rounds for index, one in asking.answers(EXAMPLES[:4])}
    assert found == expected
    assert asked[:2] == [len(EXAMPLES[:4]), 1]


def test_the_weights_of_encoders_are_hashed_once(
    model: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = predictor_module.encoder_key

    def noting(encoder: Any) -> str:
        hashed.append(real(encoder))
        return hashed[-1]

    monkeypatch.setattr(predictor_module, "encoder_key", noting)
    asking = predictor(model, cache=FeatureCache(tmp_path, max_bytes=10**9))
    first = dict(asking.answers(EXAMPLES[:2]))
    again = dict(asking.answers(EXAMPLES[:2]))
    assert again == first
    assert hashed == [real(model.encoder)]
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == hashed


@pytest.mark.parametrize("ahead", [0, 1])
def test_of_weights_that_are_at_fault_no_more_is_asked(
    model: VLM, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    broken = copy.deepcopy(model)
    broken.connector.requires_grad_(False)
    for weight in broken.connector.parameters():
        weight.fill_(math.nan)
    monkeypatch.setattr(Predictor, "ahead", ahead)
    asking = predictor(broken, batch_size=1)
    with pytest.raises(Hopeless) as caught:
        dict(asking.answers([question(name, 5) for name in "abcdefg"]))
    assert [str(one).split()[1] for one in caught.value.problems] == ["a", "b", "c", "d"]
    with pytest.raises(Unanswered):  # too few to tell
        dict(asking.answers([question(name, 5) for name in "abc"]))


def test_what_was_found_before_an_error_is_told_with_it(
    model: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = predictor(model, batch_size=1)
    told: list[str] = []

    def fails(groups: Any, outcome: Outcome) -> Any:
        outcome.not_finite(EXAMPLES[0], "logits")
        raise UserError("no such image")
        yield

    monkeypatch.setattr(asking.writer, "answers", fails)
    with pytest.raises(UserError) as caught:
        told += map(str, asking.answers([place("a", 5)]))
    assert len(caught.value.problems) == 2
    assert caught.value.problems[1] == "no such image"
    assert told == []


@pytest.mark.parametrize("mode", list(PredictMode))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_patient_is_named_whose_answer_is_not_finite(
    model: VLM, monkeypatch: pytest.MonkeyPatch, mode: PredictMode, value: float
) -> None:
    bad = decode(EXAMPLES[2].images[0])
    transform = TinyEncoder.transform

    def overflows(self: TinyEncoder, image: np.ndarray) -> torch.Tensor:
        pixels = transform(self, image)
        return torch.full_like(pixels, value) if np.array_equal(image, bad) else pixels

    monkeypatch.setattr(TinyEncoder, "transform", overflows)
    with pytest.raises(UserError, match="record b qd"):
        dict(predictor(model, mode=mode).answers(EXAMPLES))
    fine = [EXAMPLES[index] for index in (0, 1, 4)]
    assert len(dict(predictor(model, mode=mode).answers(fine))) == 3
