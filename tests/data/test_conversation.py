"""Tokens and answer places against MedM-VL's own, and by construction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinevl.data.conversation import Conversation
from spinevl.models.llm import TinyLLM
from spinevl.schema.errors import UserError

SINGLE_TURN = ("one_image", "image_end", "image_mid", "two_adjacent", "chinese", "curly")
END = {"qwen2": "<|im_end|>", "llama3": "<|eot_id|>", "phi": "<|endoftext|>"}


@pytest.mark.parametrize("llm", list(END))
def test_medmvl_golden(shared: Path, llm: str) -> None:
    from transformers import AutoTokenizer

    goldens = json.loads((shared / "goldens/templates/templates.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(shared / f"goldens/models/llm_{llm}")
    conversation = Conversation(tokenizer, template="medmvl", end_token=END[llm])
    for name in SINGLE_TURN:
        turns = goldens["conversations"][name]
        golden = goldens["results"][f"{llm}|{llm}"][name]["train"]
        made = conversation.exchange(turns[0]["value"], turns[1]["value"])
        ids = [token if token >= 0 else -200 for token in made.symbols]
        labels = [-100] * made.answer_start + ids[made.answer_start :]
        assert ids == golden["input_ids"], name
        assert labels == golden["labels"], name


def test_an_answer_is_what_follows_the_prompt() -> None:
    tokenizer = TinyLLM().tokenizer
    for template in ("chat", "medmvl"):
        conversation = Conversation(tokenizer, template=template)
        question = "<image>\n<image>\nHow is C3? A.normal, B.mild stenosis"
        prompt = conversation.prompt(question)
        whole = conversation.exchange(question, "B.mild stenosis")
        assert whole.symbols[: whole.answer_start] == prompt.symbols
        assert [s for s in whole.symbols if s < 0] == [-1, -2]
        answer = tokenizer.decode(list(whole.symbols[whole.answer_start : -1]))
        assert answer.strip() == "B.mild stenosis"
        assert whole.symbols[-1] == conversation.end_id == tokenizer.eos_token_id


def test_an_answer_that_stands_in_the_question_is_not_learned_there() -> None:
    conversation = Conversation(TinyLLM().tokenizer, template="chat")
    made = conversation.exchange("A.normal <|assistant|> A.normal?", "A.normal")
    n = len(conversation.exchange("?", "A.normal").symbols) - len(conversation.prompt("?").symbols)
    assert len(made.symbols) - made.answer_start == n


def test_unknown_template_is_one_line() -> None:
    with pytest.raises(UserError, match="expected chat or medmvl"):
        Conversation(TinyLLM().tokenizer, template="vicuna")  # type: ignore[arg-type]
