"""Greedy decoding against transformers' own, one prompt at a time."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_llm import write_small_llm

from spinevl.config.options import Attention, Packing
from spinevl.data.packing import prompts as prompts_module
from spinevl.data.packing.prompts import lay_out_prompts
from spinevl.models import answer_cache
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.generate import Sampling, greedy
from spinevl.models.llm import HFCausalLM, TinyLLM
from spinevl.models.splice import splice
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError


def model() -> VLM:
    torch.manual_seed(1)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    for parameter in llm.parameters():  # apart enough that no two tokens tie
        torch.nn.init.normal_(parameter, std=0.3)
    return VLM(
        encoder, MLPConnector(in_dim=16, out_dim=32, in_tokens=4, in_grid=(2, 2)), llm
    ).eval()


# symbols -1 - k stand for image k of a prompt; lengths differ, so that rows are padded
PROMPTS = [[5, -1, 6, 7], [8, 9, -1, 10, -2, 11, 12, 13, 14], [20, 21]]
IMAGES = [[2], [0, 1], []]


def expanded(prompt: list[int], images: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Every image as its four visual tokens."""
    symbols, rows = [], []
    for symbol in prompt:
        n = 1 if symbol >= 0 else 4
        symbols += [symbol] * n
        rows += [-1] if symbol >= 0 else [4 * images[-1 - symbol] + k for k in range(4)]
    return np.array(symbols), np.array(rows)


@torch.inference_mode()
def alone(vlm: VLM, prompt: list[int], visual: torch.Tensor, steps: int) -> list[int]:
    """What transformers generates from the prompt's embeddings alone, without padding or cache."""
    symbols: list[tuple[int, int]] = []
    for symbol in prompt:
        if symbol >= 0:
            symbols.append((symbol, -1))
        else:
            symbols += [(0, (-1 - symbol) * 4 + k) for k in range(4)]
    ids, rows = torch.tensor(symbols).T
    embeddings = splice(vlm.llm.embed(ids[None]), visual.flatten(0, 1), rows[None])
    vlm.llm.model.set_attn_implementation("eager")
    output = vlm.llm.model.generate(
        inputs_embeds=embeddings, do_sample=False, max_new_tokens=steps, use_cache=False
    )
    vlm.llm.use_prefix_attention()
    return output[0].tolist()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attention", list(Attention))
def test_a_padded_batch_says_what_each_prompt_says_alone(attention: Attention) -> None:
    vlm = model()
    pixels = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        visual = vlm.visual_tokens(pixels)
    end_id = int(vlm.llm.tokenizer.eos_token_id)
    answers = greedy(
        vlm,
        prompts=lay_out_prompts(
            [expanded(*pair) for pair in zip(PROMPTS, IMAGES, strict=True)],
            steps=9,
            attention=attention,
        ),
        visual_rows=visual.flatten(0, 1),
        end_id=end_id,
        max_new_tokens=9,
    )
    said = set()
    for prompt, own, answer in zip(PROMPTS, IMAGES, answers, strict=True):
        rows = visual[own] if own else visual[:1]
        tokens = alone(vlm, prompt, rows, 9)
        tokens = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
        assert answer == tokens
        said.add(tuple(answer))
    assert len(said) == 3  # three different answers, so that a mix-up would show


def test_a_compiled_decoder_answers_uncompiled() -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("compiled")

    vlm = model()
    pairs = [expanded(*pair) for pair in zip(PROMPTS, IMAGES, strict=True)]
    laid_out = lay_out_prompts(pairs, steps=5)
    with torch.inference_mode():
        visual = vlm.visual_tokens(torch.randn(3, 1, 64, 64)).flatten(0, 1)
    asked = {"prompts": laid_out, "visual_rows": visual, "end_id": 1, "max_new_tokens": 5}
    before = greedy(vlm, **asked)
    vlm.llm.compile(backend=refuse)
    assert greedy(vlm, **asked) == before


@pytest.mark.parametrize("kind", ["qwen2", "llama", "phi3", "gemma"])
@pytest.mark.parametrize("packing", list(Packing))
@pytest.mark.parametrize(
    ("patients", "parts", "steps"), [("", 1, 1), ("", 1, 40), ("aaabbccd", 4, 40)]
)
def test_answers_that_share_a_prefix_are_those_of_transformers(
    kind: str,
    packing: Packing,
    patients: str,
    parts: int,
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Grouped heads; prompts that begin alike, one that another begins with, and a twin."""
    monkeypatch.setattr(prompts_module, "_MOST_TOKENS", 1)
    monkeypatch.setattr(prompts_module, "_MOST_BATCHES", 99)
    monkeypatch.setattr(answer_cache, "_FIRST_STEPS", 3)
    llm = HFCausalLM(path=write_small_llm(tmp_path, kind), conversation="medmvl", end_token="A")
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    connector = MLPConnector(in_dim=16, out_dim=32, in_tokens=4, in_grid=(2, 2))
    vlm = VLM(encoder, connector, llm).eval()
    rng = np.random.default_rng(0)
    visual = torch.from_numpy(rng.normal(size=(3, 4, 32))).float()
    trunk = rng.integers(5, 60, 30).tolist()
    branch = [*trunk, -1, *rng.integers(5, 60, 150).tolist()]  # longer than a block
    prompts = [[*trunk, -1], branch, *([*branch, *rng.integers(5, 60, n)] for n in (1, 2, 40))]
    prompts += [prompts[2], [7], [*rng.integers(5, 60, 20), -1, -2]]
    shown = [[0]] * 6 + [[], [1, 2]]
    laid_out = lay_out_prompts(
        [expanded(*pair) for pair in zip(prompts, shown, strict=True)],
        patients=patients,
        packing=packing,
        steps=steps,
    )
    assert len(laid_out) == parts
    expected = [
        alone(vlm, prompt, visual[own] if own else visual[:1], 40)
        for prompt, own in zip(prompts, shown, strict=True)
    ]

    def ends(token: int) -> int:
        return len({row.index(token) if token in row else -1 for row in expected})

    # ends some answers soon, some late and some never
    end_id = max(sorted({token for row in expected for token in row}), key=ends)
    answers = greedy(
        vlm,
        prompts=laid_out,
        visual_rows=visual.flatten(0, 1),
        end_id=end_id,
        max_new_tokens=40,
    )
    cut = [row[: row.index(end_id)] if end_id in row else row for row in expected]
    assert answers == cut
    assert len({len(row) for row in cut}) > 2


def test_what_is_read_together_is_bounded_by_whole_patients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = [expanded([1, 2, 3, last], []) for last in range(4, 10)]
    monkeypatch.setattr(prompts_module, "_MOST_BATCHES", 99)

    def sizes(most: int, packing: Packing = Packing.tree, patients: str = "abbbcc") -> list[int]:
        monkeypatch.setattr(prompts_module, "_MOST_TOKENS", most)
        batches = lay_out_prompts(prompts, steps=1, patients=patients, packing=packing)
        return [len(one.lengths) for one in batches]

    assert sizes(4) == [1, 3, 2]  # 4, 6 and 5 tokens where each is read alone
    assert sizes(7) == [4, 2]  # three tokens are shared, each has one of its own
    assert sizes(8) == [4, 2]
    assert sizes(9) == [6]
    assert sizes(9, patients="abcdef") == [6]  # whoever it is about, a prefix is read once
    assert sizes(23, Packing.plain) == [4, 2]
    assert sizes(24, Packing.plain) == [6]
    prompts[0] = expanded([1, 2, 3, 4, 5, 6], [])
    assert sizes(26, Packing.plain) == [6]
    assert sizes(26, Packing.off) == [4, 2]  # rows are as wide as the longest
    monkeypatch.setattr(prompts_module, "_MOST_BATCHES", 2)
    assert sizes(1, Packing.plain, "abcdef") == [2, 3, 1]  # 13 tokens each, half of all
    with pytest.raises(ValueError, match="argument 2 is longer"):
        lay_out_prompts(prompts, steps=1, patients="abc")


@pytest.mark.parametrize("first_steps", [64, 3])
def test_an_answer_never_reads_what_nobody_wrote(
    first_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for keys is not filled, and may hold anything."""
    monkeypatch.setattr(answer_cache, "_FIRST_STEPS", first_steps)
    real = torch.Tensor.new_empty

    def noise(tensor: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        made = real(tensor, *shape, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    vlm = model()
    rows = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    prompts = [expanded([1, 2, 3, 4, last], []) for last in range(5, 11)]

    def answers() -> list[list[int] | None]:
        options: dict[str, Any] = {"visual_rows": rows, "end_id": 117, "max_new_tokens": 12}
        return greedy(vlm, prompts=lay_out_prompts(prompts, steps=1), **options)

    expected = answers()
    assert None not in expected
    assert len({len(one or ()) for one in expected}) > 3  # some end soon, some late
    monkeypatch.setattr(torch.Tensor, "new_empty", noise)
    assert answers() == expected


def test_a_prompt_whose_logits_are_not_finite_has_no_answer() -> None:
    vlm = model()
    end_id = int(vlm.llm.tokenizer.eos_token_id)
    rows = torch.randn(12, 32)
    rows[9, 3] = torch.nan  # of image 2, which the first prompt shows
    for prompt, own in zip(PROMPTS, IMAGES, strict=True):
        laid_out = lay_out_prompts([expanded(prompt, own)], steps=5)
        (answer,) = greedy(vlm, prompts=laid_out, visual_rows=rows, end_id=end_id, max_new_tokens=5)
        assert (answer is None) is (2 in own)


def test_sampling_draws_from_the_nucleus_and_from_nothing_else() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).repeat(4000, 1)
    logits = probabilities.log() + 7.0  # a constant changes nothing
    drawn = Sampling(temperature=1.0, top_p=0.7).next_token(logits, [])
    share = torch.bincount(drawn, minlength=4) / 4000
    # 0.5 alone is less than 0.7, with the second it is more: 5 to 3
    torch.testing.assert_close(share, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    colder = Sampling(temperature=0.5).next_token(logits, [])
    share = torch.bincount(colder, minlength=4) / 4000
    expected = torch.tensor([0.25, 0.09, 0.0225, 0.0025]) / 0.365  # squared and scaled
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)
    narrow = Sampling(temperature=1.0, top_p=1e-9).next_token(logits, [])
    assert (narrow == 0).all()  # the most probable one always stays


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("temperature", [-1.0, 1e39, math.nan, math.inf, "1", True]),
        ("top_p", [0.0, -0.1, 1.1, math.nan]),
        ("repetition_penalty", [0.0, -1.0, 1e39, math.nan]),
    ],
)
def test_numbers_that_mean_nothing_are_refused(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(
            UserError, match=rf"^Sampling\.{key}: expected .*, found {re.escape(str(value))}; "
        ):
            Sampling(**{key: value})


@pytest.mark.parametrize("temperature", [1e-300, 1e-31, 1e-30, 1e-3])
def test_the_coldest_temperatures_take_the_most_probable_token(temperature: float) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [-50.0, -80.0, -49.0]])
    assert Sampling(temperature=temperature).next_token(logits, []).tolist() == [1, 2]


def test_a_penalty_keeps_the_type_of_the_logits() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0]], dtype=torch.bfloat16)
    said = [torch.tensor([0])]
    assert Sampling(repetition_penalty=2.0).next_token(logits, said).item() == 1
    assert Sampling().next_token(logits, said).item() == 0
    negative = torch.tensor([[-1.0, -1.5]])
    assert Sampling(repetition_penalty=2.0).next_token(negative, said).item() == 1
