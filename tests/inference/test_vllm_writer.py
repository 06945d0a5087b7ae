"""What vLLM writes is what the model would: its LLM reads the same embeddings."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vllm_environment import FAKE

from spinevl.checkpoints.decoder import write_decoder
from spinevl.config.options import History, PredictMode, PredictOptions
from spinevl.inference import vllm_worker, vllm_writer
from spinevl.inference.answer import Answer, Outcome, Unanswered
from spinevl.inference.predictor import Predictor
from spinevl.inference.vllm_process import VLLMProcess
from spinevl.inference.writer import Writer
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import TinyLLM
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

REAL = os.environ.get("SPINEVL_VLLM_PYTHON")


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=128, layers=2, heads=4)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, llm).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(model: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm") / "llm"
    write_decoder(folder, model.llm)
    return folder


class Here(VLLMProcess):
    """The process's own engine in this one, and as few prompts at a time as may be."""

    starts = 0

    def start(self, *, dtype: str, max_length: int, end: int, keys_bytes: int) -> None:
        type(self).starts += 1
        self.prompts.mkdir(exist_ok=True)
        self.engine = vllm_worker.Engine(
            model=str(self.model), dtype=dtype, max_length=max_length, end=end
        )
        self.done: dict[int, list[int] | None] = {}

    def _tell(self, **told: Any) -> None:
        self.engine.ask(**told)

    def answer(self) -> tuple[int, list[int] | None]:
        while not self.done:
            self.done |= self.engine.step()
        return self.done.popitem()


@pytest.fixture
def engine(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.syspath_prepend(str(FAKE))
    given: dict[str, Any] = {"prompts": tmp_path / "prompts", "log": tmp_path / "vllm.log"}
    with Here(None, model=folder, device="cpu", **given) as one:
        yield one
    assert not one.prompts.exists()


def decode(image: ImageRef) -> np.ndarray:
    rng = np.random.default_rng(list(image.path.encode()))
    return rng.integers(0, 255, (64, 64), dtype=np.uint8)


def talk(name: str, *rounds: tuple[str, str | None], kind: Any = "text") -> Example:
    count = sum(question.count("<image>") for question, _ in rounds)
    shown = tuple(ImageRef(f"{name}/{number}") for number in range(count))
    return Example(Key(name, ""), shown, rounds, source=f"file.json: {name}", kind=kind)


def option(name: str) -> Example:
    shown = (ImageRef(f"{name}/0", patient=name),)
    rounds = (("<image>\nCurve?", None),)
    return Example(Key(name, "qd"), shown, rounds, kind="option", options=("A.yes", "B.no"))


EXAMPLES = [
    talk("one", ("<image>\nCurve?", None)),
    talk("two", ("<image><image>\nReport?", "A long one."), ("<image> And this?", "true")),
    option("a"),
    talk("text", ("What is MRI?", None)),
    talk("place", ("<image>\nWhere is C3?", None), kind="box"),
    option("b"),
]


@pytest.mark.parametrize("history", list(History))
@pytest.mark.parametrize("mode", list(PredictMode))
def test_answers_are_the_models_own(
    model: VLM, engine: Here, history: History, mode: PredictMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_writer, "_MOST_OPEN", 2)
    options = PredictOptions(max_new_tokens=6, history=history, mode=mode, batch_size=2)
    native = dict(Predictor(model, decode, options=options).answers(EXAMPLES))
    ours = dict(Predictor(model, decode, options=options, engine=engine).answers(EXAMPLES))
    assert ours == native
    assert len(ours) == len(EXAMPLES)


def test_what_is_known_is_not_asked_and_what_is_scored_starts_no_engine(
    model: VLM, engine: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Here, "starts", 0)
    predictor = Predictor(model, decode, options=PredictOptions(max_new_tokens=2), engine=engine)
    assert len(predictor.predict([option("a")])) == 1
    assert Here.starts == 0
    assert dict(predictor.answers(EXAMPLES, done=[0, 1, 2, 4, 5])).keys() == {3}
    assert Here.starts == 1


def test_the_decoder_is_not_needed_here(model: VLM, engine: Here) -> None:
    options = PredictOptions(max_new_tokens=6, mode=PredictMode.generate)
    native = dict(Predictor(model, decode, options=options).answers(EXAMPLES))
    light = copy.deepcopy(model)
    light.llm.keep_embeddings_alone()
    table = light.llm.model.get_input_embeddings().weight
    assert sum(one.numel() for one in light.llm.parameters()) == table.numel()
    assert (
        dict(Predictor(light, decode, options=options, engine=engine).answers(EXAMPLES)) == native
    )


def test_logits_that_are_not_finite_are_told(
    model: VLM, engine: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "nan")
    predictor = Predictor(model, decode, options=PredictOptions(max_new_tokens=2), engine=engine)
    with pytest.raises(UserError, match=r"file\.json: one: expected finite"):
        list(predictor.answers(EXAMPLES[:1]))
    with pytest.raises(UserError, match=r"predict\.engine: expected native, .* found vllm"):
        list(predictor.stream(EXAMPLES[0]))


def test_what_has_no_room_or_no_finite_logits_costs_no_other_its_answer(
    model: VLM, engine: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(self: Writer, example: Example, tokens: Any, outcome: Outcome) -> str | None:
        told = said(self, example, None if example.key.patient == "bad" else tokens, outcome)
        return None if told is None else 20 * "word "

    said = Writer.decoded
    monkeypatch.setattr(Writer, "decoded", decoded)
    options = PredictOptions(max_new_tokens=2, history=History.own, batch_size=2)
    question = ("<image>?", "So.")
    asked = [talk("long", *9 * [question]), talk("short", question), talk("bad", question)]
    asked += [talk("again", question, question)]
    results = []
    for one in (None, engine):
        predictor = Predictor(model, decode, options=options, engine=one)
        predictor.collate.max_length = predictor.collate.length(asked[3]) + 150
        found: dict[int, Answer] = {}
        with pytest.raises(Unanswered) as caught:
            deque(starmap(found.__setitem__, predictor.answers(asked)), maxlen=0)
        results.append((found, sorted(caught.value.problems)))
    assert results[0] == results[1]
    assert {index: len(one.rounds) for index, one in results[0][0].items()} == {1: 1, 3: 2}
    assert len(results[0][1]) == 2


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="SPINEVL_VLLM_PYTHON names no interpreter")
@pytest.mark.parametrize("history", list(History))
def test_vllm_itself_writes_the_same(
    model: VLM, folder: Path, tmp_path: Path, history: History
) -> None:
    options = PredictOptions(max_new_tokens=12, history=history)
    native = dict(Predictor(model, decode, options=options).answers(EXAMPLES))
    given: dict[str, Any] = {"prompts": tmp_path / "prompts", "log": tmp_path / "vllm.log"}
    with VLLMProcess(REAL, model=folder, device="cpu", **given) as process:
        predictor = Predictor(model, decode, options=options, engine=process)
        assert dict(predictor.answers(EXAMPLES)) == native
