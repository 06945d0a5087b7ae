"""The probabilities of options: held to the options, or of their whole texts."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spinevl.config.options import Attention, Compile, Packing, PredictOptions, Scoring
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.image_input import BatchImages
from spinevl.inference.encode import visual_rows_of
from spinevl.inference.predictor import Predictor
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import TinyLLM
from spinevl.models.splice import splice
from spinevl.models.vlm import VLM
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef

# the second begins as the first, the third as nothing else
OPTIONS = ("A.normal", "A.normal, but straight", "B.no curve", "C.reverse")


def question(patient: str, *, options: tuple[str, ...] = OPTIONS, level: str = "") -> Example:
    image = ImageRef(f"{patient}/6", patient=patient, plane="sagittal", slice=6)
    rounds = ((f"<image>\nCurve {level}?", None),)
    return Example(Key(patient, "qd", level), (image,), rounds, kind="option", options=options)


# two questions with one prompt and other options: each is normalised over its own
EXAMPLES = [question("a"), question("a", options=("A.yes", "B.no")), question("b", level="C3")]


def decode(image: ImageRef) -> np.ndarray:
    rng = np.random.default_rng(list(image.path.encode()))
    return rng.integers(0, 255, (64, 64), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    with torch.no_grad():
        llm.model.lm_head.weight.normal_()  # probabilities that differ
    return VLM(encoder, connector, llm).eval().requires_grad_(False)


def scores(model: VLM, examples: list[Example], **options: Any) -> list[dict[int, float]]:
    answers = dict(Predictor(model, decode, options=PredictOptions(**options)).answers(examples))
    return [dict(answers[index].logprobs or {}) for index in range(len(examples))]


def generated(model: VLM, example: Example) -> list[float]:
    """Each option's log-probability by transformers' beam search, held to the options."""
    collate = Collator(model.inputs(), ImageStore(decode))
    images = BatchImages(collate.inputs)
    ask, prompt = example.rounds[-1][0], collate.conversation.prompt(example.rounds[-1][0])
    symbols = np.array(images.expand(prompt, example.images)[0])
    written = [
        tuple(collate.conversation.exchange(ask, option).symbols[len(prompt.symbols) :])
        for option in example.options
    ]
    ids = torch.from_numpy(symbols).clamp(min=0)[None]
    index = torch.from_numpy(images.rows(symbols))[None]
    embeddings = splice(model.llm.embed(ids), visual_rows_of(model, images), index)
    end = collate.conversation.answer_end()

    def going_on(_: int, before: torch.Tensor) -> list[int]:
        said = tuple(before.tolist())
        tokens = {one[len(said)] for one in written if one[: len(said)] == said < one}
        return sorted(tokens) or [end]

    found = model.llm.model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones_like(ids),
        prefix_allowed_tokens_fn=going_on,
        num_beams=len(written),
        num_return_sequences=len(written),
        max_new_tokens=max(map(len, written)),
        do_sample=False,
        renormalize_logits=True,
        length_penalty=0.0,
        eos_token_id=end,
        pad_token_id=end,
        return_dict_in_generate=True,
        output_scores=True,
    )
    by_text = {
        tuple(row[: row.index(end) + 1]): score
        for row, score in zip(
            found.sequences.tolist(), found.sequences_scores.tolist(), strict=True
        )
    }
    return [by_text[one] for one in written]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attention", list(Attention))
@pytest.mark.parametrize("packing", list(Packing))
def test_trie_scores_are_those_of_decoding_held_to_the_options(
    model: VLM, packing: Packing, attention: Attention
) -> None:
    all_found = scores(model, EXAMPLES, packing=packing, attention=attention)
    for example, found in zip(EXAMPLES, all_found, strict=True):
        assert [found[k] for k in range(len(found))] == pytest.approx(
            generated(model, example), abs=2e-5
        )
        assert sum(np.exp(list(found.values()))) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiled with g++")
def test_a_compiled_decoder_scores_the_same(
    model: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    before = scores(model, EXAMPLES)
    after = scores(copy.deepcopy(model), EXAMPLES, compile=Compile.default)
    for one, other in zip(before, after, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_full_scores_are_of_whole_texts_and_leave_room_for_other_answers(model: VLM) -> None:
    full = scores(model, EXAMPLES, scoring=Scoring.full)
    held = scores(model, EXAMPLES)
    for whole, choices in zip(full, held, strict=True):
        assert sum(np.exp(list(whole.values()))) < 0.1
        assert all(whole[label] < choices[label] for label in choices)


def test_no_token_behind_the_last_choice_is_computed(model: VLM) -> None:
    groups = [list(enumerate(EXAMPLES))]
    tokens = {
        scoring: Collator(model.inputs(), ImageStore(decode), scoring=scoring)(groups).tokens
        for scoring in Scoring
    }
    assert tokens[Scoring.trie] < tokens[Scoring.full]
    alone = Collator(model.inputs(), ImageStore(decode))
    batch = alone([[(0, question("a", options=("yes", "no")))]])
    prompt = alone.conversation.prompt("<image>\nCurve ?")
    assert batch.tokens == len(prompt.symbols) - 1 + 4  # an image is four tokens
    assert batch.allowed is not None
    assert batch.allowed.shape == (1, 2)


def test_an_adapted_head_is_computed_whole_and_gives_the_same(model: VLM) -> None:
    plain = scores(model, EXAMPLES)
    head = model.llm.model.lm_head

    class Adapted(torch.nn.Linear):
        """Stands for a layer that is not just its weight."""

    other = Adapted(head.in_features, head.out_features, bias=False)
    other.weight = head.weight
    model.llm.model.lm_head = other
    try:
        adapted = scores(model, EXAMPLES)
    finally:
        model.llm.model.lm_head = head
    for one, two in zip(plain, adapted, strict=True):
        assert one == pytest.approx(two, abs=1e-5)
