"""Spellings of configs and tokenizers beside those that ``tests/exports`` has models of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import Gemma3TextConfig, PreTrainedTokenizerFast, Qwen2Config

from spinevl.checkpoints.hf import _hub_name, _medmvl_template
from spinevl.checkpoints.interchange import both_spellings, write_config, write_tokenizer
from spinevl.models.llm import TinyLLM
from spinevl.schema.conversation import MEDMVL_SYSTEM
from spinevl.schema.errors import UserError


def test_two_rotary_embeddings_are_spelled_as_gemma_3_had_them() -> None:
    config = Gemma3TextConfig(
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 12000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 9e5},
        }
    )
    told = both_spellings(json.loads(config.to_json_string(use_diff=False)))
    assert told["rope_theta"] == 9e5
    assert told["rope_local_base_freq"] == 12000.0
    assert told["rope_scaling"] == {"type": "linear", "factor": 8.0}
    again = Gemma3TextConfig(**told).rope_parameters
    for kind, wanted in config.rope_parameters.items():
        assert wanted.items() <= again[kind].items()


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "linear", "factor": 2}, {"type": "linear", "factor": 2.0}),
        ({"rope_type": "dynamic", "factor": 4.0}, {"type": "dynamic", "factor": 4.0}),
        ({"rope_type": "yarn", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}),
    ],
)
def test_what_is_written_is_read_back(
    tmp_path: Path, rope: dict[str, Any], scaling: dict[str, Any]
) -> None:
    config = Qwen2Config(rope_parameters={**rope, "rope_theta": 7e4}, eos_token_id=3)
    write_config(tmp_path, config, eos_token_id=5)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["rope_theta"] == 7e4
    assert told["rope_scaling"].items() >= scaling.items()
    again = Qwen2Config.from_pretrained(tmp_path)
    assert again.eos_token_id == 5
    found = {key: value for key, value in again.rope_parameters.items() if key != "type"}
    assert found == config.rope_parameters


@pytest.mark.parametrize(
    ("pairs", "merges"),
    [([("a", "b")], ["a b"]), ([(" a", "b")], [[" a", "b"]]), ([], [])],
    ids=["texts", "pairs", "none"],
)
def test_merges_are_texts_where_no_token_has_a_space(
    tmp_path: Path, pairs: list[tuple[str, str]], merges: list[Any]
) -> None:
    words = [one for a, b in pairs for one in (a, b, a + b)] or ["a"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, pairs)))
    write_tokenizer(tmp_path, tokenizer)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"] == merges
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_a_rotary_embedding_that_lacks_a_value_is_one_line(tmp_path: Path) -> None:
    config = Qwen2Config()
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 7e4}
    with pytest.raises(UserError, match=r"qwen2 config.*'factor'"):
        write_config(tmp_path, config)
    assert not list(tmp_path.iterdir())


def test_a_medmvl_conversation_has_no_other_roles() -> None:
    tokenizer = TinyLLM().tokenizer
    tokenizer.chat_template = _medmvl_template("</s>")
    turns = [{"role": "user", "content": " Curve? "}, {"role": "assistant", "content": "A."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == f"{MEDMVL_SYSTEM}USER: Curve? ASSISTANT: A.</s>"
    for role in ("system", "tool"):
        with pytest.raises(TemplateError, match=f"found {role}"):
            tokenizer.apply_chat_template([{"role": role, "content": "x"}, *turns], tokenize=False)


def test_a_weight_that_llava_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"connector\.gate"):
        _hub_name("connector.gate")
