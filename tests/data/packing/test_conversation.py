"""Tokens and answer places against MedM-VL's own, and by construction."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spinevl.data.packing.conversation import Conversation
from spinevl.models.llm import TinyLLM
from spinevl.schema.errors import UserError

END = {
    "qwen2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "phi": "<|endoftext|>",
    "phi3": "<|endoftext|>",
    "llama": "</s>",
}
# refused when the data are read, so no conversation comes of them here
REFUSED = ("first_is_gpt", "roles_swapped_ignored", "empty_answer_train", "empty_answer_mid")
# upstream finds answers by counting tokens of the text cut up, and learns nothing where they differ
UNLEARNED = ("assistant_in_user", "eos_in_user", "multi_generation")


def _rounds(turns: list[dict[str, str]]) -> list[tuple[str, str | None]]:
    values: list[str | None] = [turn["value"] for turn in turns]
    values += [None] * (len(values) % 2)
    return list(zip(values[::2], values[1::2], strict=True))  # type: ignore[arg-type]


def _golden(shared: Path, template: str, llm: str) -> tuple[dict, dict, Conversation]:
    from transformers import AutoTokenizer

    goldens = json.loads((shared / "goldens/templates/templates.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(shared / f"goldens/models/llm_{llm}")
    name = "pretrain" if template.startswith("pretrain") else "medmvl"
    conversation = Conversation(tokenizer, template=name, end_token=END[llm])  # type: ignore[arg-type]
    return goldens["conversations"], goldens["results"][f"{template}|{llm}"], conversation


def _ids_and_labels(
    conversation: Conversation, turns: list[dict[str, str]]
) -> tuple[list[int], list[int]]:
    made = conversation.dialogue(_rounds(turns))
    kinds = re.findall("<image3d>|<image>", " ".join(turn["value"] for turn in turns))
    place = {"<image>": -200, "<image3d>": -201}
    ids = [token if token >= 0 else place[kinds[-1 - token]] for token in made.symbols]
    labels = [-100] * len(ids)
    for start, stop in made.learned:
        labels[start:stop] = ids[start:stop]
    return ids, labels


@pytest.mark.parametrize("llm", list(END))
def test_medmvl_golden(shared: Path, llm: str) -> None:
    conversations, results, conversation = _golden(shared, llm, llm)
    for name, turns in conversations.items():
        if name in REFUSED:
            continue
        golden = results[name]["train"]
        ids, labels = _ids_and_labels(conversation, turns)
        kept = list(range(len(golden["input_ids"])))
        if llm in ("llama", "phi3"):
            # the slow Llama tokenizer puts one more piece before a chunk that starts with a space
            places = [k for k in kept if golden["input_ids"][k] < 0]
            after = [match.end() for match in re.finditer("<image(3d)?>", golden["prompt"])]
            for place, end in zip(places, after, strict=True):
                if golden["prompt"][end] == " ":
                    kept.remove(place + 1)
        assert ids == [golden["input_ids"][k] for k in kept], name
        if name in UNLEARNED:
            assert set(golden["labels"]) == {-100}, name
            assert labels[-1] == -100 if name == "multi_generation" else labels[-1] >= 0, name
        else:  # upstream's label of an image inside an answer is overwritten by the visual tokens
            wanted = [golden["labels"][k] for k in kept]
            assert labels == [token if token != -200 else -100 for token in wanted], name


@pytest.mark.parametrize("llm", ["qwen2", "llama3", "phi"])
@pytest.mark.parametrize("template", ["pretrain", "pretrain_image3d"])
def test_pretrain_golden(shared: Path, template: str, llm: str) -> None:
    """Upstream writes one placeholder a round whatever is shown; ours are the question's own."""
    placeholder = "<image3d>" if template.endswith("3d") else "<image>"
    conversations, results, conversation = _golden(shared, template, llm)
    same = 0
    for name, turns in conversations.items():
        shown = re.findall("<image3d>|<image>", " ".join(turn["value"] for turn in turns))
        if shown != [placeholder] or len(turns) != 2 or name in REFUSED:
            continue
        golden = results[name]["train"]
        assert _ids_and_labels(conversation, turns) == (golden["input_ids"], golden["labels"]), name
        same += 1
    assert same == (1 if placeholder == "<image3d>" else 8)


@pytest.mark.parametrize("template", ["chat", "medmvl"])
def test_every_answer_of_a_dialogue_is_learned_and_nothing_else(template: str) -> None:
    tokenizer = TinyLLM().tokenizer
    conversation = Conversation(tokenizer, template=template)  # type: ignore[arg-type]
    rounds = [("<image>\nCurve?", "A.normal"), ("And C3?", "B.mild"), ("Why <image3d>?", "So.")]
    made = conversation.dialogue(rounds)
    texts = [tokenizer.decode(list(made.symbols[start:stop])) for start, stop in made.learned]
    assert [text.strip() for text in texts] == [
        f"{answer}{conversation.tokenizer.decode([conversation.end_id])}" for _, answer in rounds
    ]
    assert [symbol for symbol in made.symbols if symbol < 0] == [-1, -2]
    # what waits for the second answer is the beginning of the whole
    waiting = conversation.dialogue([rounds[0], ("And C3?", None)])
    assert made.symbols[: len(waiting.symbols)] == waiting.symbols
    assert waiting.learned == made.learned[:1]
    assert made.learned[1][0] == len(waiting.symbols)


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
    with pytest.raises(UserError, match="expected chat, medmvl or pretrain"):
        Conversation(TinyLLM().tokenizer, template="vicuna")  # type: ignore[arg-type]


HEAD = "{% for m in messages %}{% if m['role'] == 'user' %}<{{ m['content'] }}>{% else %}"
TAIL = "{% endif %}{% endfor %}"
# what a template writes behind an answer -> the end token that it shows
ENDS = {
    "{{ eos_token }}": None,
    "{{ ' ' + eos_token }}": None,
    "{{ '\n' + eos_token + '\n' }}": None,
    "{{ '\r\n\t ' }}<|EOT|>": "<|EOT|>",
    "{{ '\n\n' }}<|stop|>{{ '\n' + eos_token }}": "<|stop|>",
}
NO_ENDS = ("", "{{ '\n\n' }}", "{{ '\n### ' + eos_token }}", "</end>", "{{ '    ' }}")


def _with_template(shared: Path, llm: str, after: str) -> tuple[Any, Any]:
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / f"goldens/models/llm_{llm}")
    tokenizer.add_tokens([AddedToken("<|EOT|>"), AddedToken("    ")])  # Phi-2 has added white space
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|stop|>", rstrip=True)]}
    )
    tokenizer.chat_template = HEAD + "{{ m['content'] }}" + after + TAIL
    return tokenizer, ENDS.get(after) or tokenizer.eos_token


@pytest.mark.parametrize("llm", ["qwen2", "llama", "llama3", "phi", "phi3"])
@pytest.mark.parametrize("after", ENDS)
def test_the_last_learned_token_is_the_end_token(shared: Path, llm: str, after: str) -> None:
    tokenizer, end = _with_template(shared, llm, after)
    conversation = Conversation(tokenizer, template="chat")
    assert conversation.answer_end() == tokenizer.convert_tokens_to_ids(end)
    rounds = [("a?", "Findings: none."), ("b?", "No "), ("c?", "x\n")]
    made = conversation.dialogue(rounds)
    assert len(made.learned) == len(rounds)
    for (start, stop), (_, answer) in zip(made.learned, rounds, strict=True):
        assert made.symbols[stop - 1] == conversation.answer_end()
        assert tokenizer.decode(list(made.symbols[start : stop - 1])).strip() == answer.strip()
    # a prompt that waits for the second answer is the beginning of what was learned
    prompt = conversation.dialogue([*rounds[:1], ("b?", None)])
    assert made.symbols[: len(prompt.symbols)] == prompt.symbols


@pytest.mark.parametrize("llm", ["qwen2", "llama", "llama3", "phi", "phi3"])
@pytest.mark.parametrize("after", NO_ENDS)
def test_a_template_without_an_end_token_is_refused(shared: Path, llm: str, after: str) -> None:
    tokenizer, _ = _with_template(shared, llm, after)
    with pytest.raises(UserError, match="puts no end token after an answer"):
        Conversation(tokenizer, template="chat")


def test_answers_that_end_differently_are_refused(shared: Path) -> None:
    after = "{{ '<|EOT|>' if m['content'] == 'A' else eos_token }}"
    tokenizer, _ = _with_template(shared, "qwen2", after)
    conversation = Conversation(tokenizer, template="chat")
    with pytest.raises(UserError, match=r"<\|EOT\|> and another in <\|im_end\|>"):
        conversation.exchange("?", "B")


@pytest.mark.parametrize("end", ["</end>", "none", " ", "a"])
def test_an_end_token_that_is_no_end_token_is_refused(shared: Path, end: str) -> None:
    tokenizer, _ = _with_template(shared, "qwen2", "")
    pretrain = Conversation(tokenizer, template="pretrain", end_token=end)
    assert pretrain.exchange("<image>", "A scan.").symbols[0] == -1  # learns no end
    with pytest.raises(UserError, match=r"^llm\.end_token"):
        pretrain.answer_end()
    with pytest.raises(UserError, match=f"^llm.end_token={end}: not one token"):
        Conversation(tokenizer, template="medmvl", end_token=end)


@pytest.mark.parametrize(
    ("template", "said"),
    [("{{ raise_exception('No system turn') }}", "No system turn"), ("{% for %}", "chat template")],
)
def test_a_template_that_cannot_be_filled_is_one_line(
    shared: Path, template: str, said: str
) -> None:
    tokenizer, _ = _with_template(shared, "qwen2", "")
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=f"^llm.conversation=chat: .*{said}"):
        Conversation(tokenizer, template="chat")
