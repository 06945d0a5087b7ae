"""Turn a question and its answer into tokens, with the answer's place known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from spinevl.schema.errors import UserError

IMAGE = "<image>"
Template = Literal["medmvl", "chat"]

MEDMVL_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


@dataclass(frozen=True)
class TokenSequence:
    """One conversation as symbols.

    Attributes:
        symbols: token ids, and ``-1 - k`` where image k of the conversation stands.
        answer_start: where the answer begins; the answer runs to the end, end token included.
            Equal to ``len(symbols)`` for a prompt that waits for its answer.
    """

    symbols: tuple[int, ...]
    answer_start: int


class Conversation:
    """Writes conversations as one LLM reads them.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        template: ``medmvl`` (MedM-VL's one string for every LLM) or ``chat`` (the tokenizer's own
            chat template).
        end_token: what ends an answer under ``medmvl``; the tokenizer's eos by default.

    Raises:
        UserError: the template's name is unknown, or the tokenizer has no chat template.
    """

    def __init__(
        self, tokenizer: Any, *, template: Template = "chat", end_token: str | None = None
    ) -> None:
        if template not in ("medmvl", "chat"):
            raise UserError(f"llm.conversation={template}: expected chat or medmvl")
        if template == "chat" and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "llm.conversation=chat: this tokenizer has no chat template; "
                "use llm.conversation=medmvl"
            )
        self.tokenizer = tokenizer
        self.template = template
        self.end_token = end_token or tokenizer.eos_token
        self.end_id = int(tokenizer.convert_tokens_to_ids(self.end_token))
        self._assemble = lru_cache(maxsize=65536)(self._assemble_uncached)

    def prompt(self, question: str) -> TokenSequence:
        """The question alone, up to where the answer starts."""
        return self._assemble(question, None)

    def exchange(self, question: str, answer: str) -> TokenSequence:
        """The question with its answer and end token."""
        return self._assemble(question, answer)

    def _assemble_uncached(self, question: str, answer: str | None) -> TokenSequence:
        text, start, end = self._write(question, answer)
        symbols: list[int] = []
        answer_start: int | None = None
        offset, n_images = 0, 0
        for number, chunk in enumerate(text.split(IMAGE)):
            if number:
                symbols.append(-1 - n_images)
                n_images += 1
                offset += len(IMAGE)
            ids, ends = self._tokenize(chunk, first=number == 0)
            for token, token_end in zip(ids, ends, strict=True):
                if offset + token_end > end:
                    break  # a template's line feed after the end token is nobody's answer
                if answer_start is None and offset + token_end > start:
                    answer_start = len(symbols)
                symbols.append(token)
            offset += len(chunk)
        if answer_start is None:
            answer_start = len(symbols)
        return TokenSequence(tuple(symbols), answer_start)

    def _tokenize(self, chunk: str, *, first: bool) -> tuple[list[int], list[int]]:
        """Token ids and where each ends in ``chunk``; a leading bos ends at 0."""
        if not chunk:
            return [], []
        encoded = self.tokenizer(chunk, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        ends = [stop for _, stop in encoded["offset_mapping"]]
        bos = self._bos() if first else None
        if bos is not None and ids[:1] != [bos]:
            ids, ends = [bos, *ids], [0, *ends]
        return ids, ends

    def _bos(self) -> int | None:
        """The token that this tokenizer puts before a text, if any."""
        with_special = self.tokenizer("a")["input_ids"]
        without = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        leads = len(with_special) > len(without) and with_special[-len(without) :] == without
        return int(with_special[0]) if leads else None

    def _write(self, question: str, answer: str | None) -> tuple[str, int, int]:
        """The whole text, and where the answer with its end token starts and ends in it."""
        if self.template == "medmvl":
            prompt = f"{MEDMVL_SYSTEM}USER: {question.strip()} ASSISTANT:"
            tail = "" if answer is None else f" {answer.strip()}{self.end_token}"
            return prompt + tail, len(prompt), len(prompt) + len(tail)
        turns = [{"role": "user", "content": question}]
        prompt = self._chat(turns, waits=True)
        if answer is None:
            return prompt, len(prompt), len(prompt)
        text = self._chat([*turns, {"role": "assistant", "content": answer}], waits=False)
        if not text.startswith(prompt) or not text[len(prompt) :].lstrip().startswith(answer):
            raise UserError(
                "llm.conversation=chat: this tokenizer's chat template does not write the answer "
                "right after its generation prompt; use llm.conversation=medmvl"
            )
        tail = text[text.index(answer, len(prompt)) + len(answer) :]
        marker = self._turn_end(tail)
        return text, len(prompt), len(text) - len(tail) + len(marker)

    def _turn_end(self, tail: str) -> str:
        """The end token with which a chat template closes a turn."""
        ids = self.tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True)
        if not ids["input_ids"]:
            raise UserError(
                "llm.conversation=chat: this tokenizer's chat template puts no end token after an "
                "answer; use llm.conversation=medmvl"
            )
        self.end_id = int(ids["input_ids"][0])
        return tail[: ids["offset_mapping"][0][1]]

    def _chat(self, turns: Sequence[dict[str, str]], *, waits: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=waits
            )
        )
