"""Turn a question and its answer into tokens, with the answer's place known by construction."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from spinevl.schema.conversation import MEDMVL_SYSTEM, PLACEHOLDER
from spinevl.schema.errors import UserError

Template = Literal["medmvl", "chat", "pretrain"]
Rounds = Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class TokenSequence:
    """One conversation as symbols.

    Attributes:
        symbols: token ids, and ``-1 - k`` where image k of the conversation stands.
        learned: [start, stop) of each answer with its end token, in order; no image is in one.
            A prompt that waits for its answer ends without one.
    """

    symbols: tuple[int, ...]
    learned: tuple[tuple[int, int], ...]

    @property
    def answer_start(self) -> int:
        """Where the first answer begins; the end where there is none."""
        return self.learned[0][0] if self.learned else len(self.symbols)


class Conversation:
    """Writes conversations as one LLM reads them.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        template: ``medmvl`` (MedM-VL's one string for every LLM), ``chat`` (the tokenizer's own
            chat template), or ``pretrain`` (the images and the answer, nothing else: what a
            connector is aligned with).
        end_token: what ends an answer under ``medmvl``; the tokenizer's eos by default.

    Attributes:
        end_id: the token that ends an answer: the last one that is learned of every answer, and the
            one that ends generation. ``pretrain`` learns none, and needs none but to generate.

    Raises:
        UserError: the template's name is unknown, the tokenizer has no chat template, or answers
            would not end in one token.
    """

    def __init__(
        self, tokenizer: Any, *, template: Template = "chat", end_token: str | None = None
    ) -> None:
        if template not in ("medmvl", "chat", "pretrain"):
            raise UserError(f"llm.conversation={template}: expected chat, medmvl or pretrain")
        if template == "chat" and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "llm.conversation=chat: this tokenizer has no chat template; "
                "use llm.conversation=medmvl"
            )
        self.tokenizer = tokenizer
        self.template = template
        self.end_token = end_token or tokenizer.eos_token
        self._ends = _end_tokens(tokenizer)
        if template != "pretrain":
            self.answer_end()
        self._assemble = lru_cache(maxsize=65536)(self._assemble_uncached)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_assemble"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._assemble = lru_cache(maxsize=65536)(self._assemble_uncached)

    def prompt(self, question: str) -> TokenSequence:
        """The question alone, up to where the answer starts."""
        return self.dialogue([(question, None)])

    def exchange(self, question: str, answer: str) -> TokenSequence:
        """The question with its answer and end token."""
        return self.dialogue([(question, answer)])

    def dialogue(self, rounds: Rounds) -> TokenSequence:
        """Questions with their answers; the last answer is None where it is waited for."""
        return self._assemble(tuple(rounds))

    @cached_property
    def end_id(self) -> int:
        """A probe shows the end token of a chat template, and whether the other one is learned."""
        return self._shown_end() if self.template == "chat" else self._named_end()

    def answer_end(self) -> int:
        """The token that ends an answer; an export names it as its ``eos_token_id``."""
        return self.end_id

    def _named_end(self) -> int:
        """The id of ``end_token``, which must be a token of its own behind any answer."""
        found = self.tokenizer.convert_tokens_to_ids(self.end_token) if self.end_token else None
        written = self._tokenize(f"A{self.end_token}", first=False)[0]
        if found is None or written[-1:] != [found] or found not in self._ends:
            raise UserError(
                f"llm.end_token={self.end_token}: not one token of this tokenizer; answers would "
                "never end"
            )
        return int(found)

    def _shown_end(self) -> int:
        """The token with which the chat template ends an answer."""
        question = {"role": "user", "content": "?"}
        prompt = self._chat([question], waits=True)
        text, stop = self._chat_answer([question], prompt, "A")
        return self._turn_end(text[stop:])[0]

    def _assemble_uncached(self, rounds: tuple[tuple[str, str | None], ...]) -> TokenSequence:
        text, answers, end = self._write(rounds)
        symbols: list[int] = []
        ends: list[int] = []  # where each symbol ends in the text
        offset, n_images = 0, 0
        gaps = [match.span() for match in PLACEHOLDER.finditer(text)]
        for number, (start, stop) in enumerate([*gaps, (len(text), len(text))]):
            ids, stops = self._tokenize(text[offset:start], first=number == 0)
            for token, token_end in zip(ids, stops, strict=True):
                if offset + token_end > end:
                    break  # a template's line feed after the end token is nobody's answer
                symbols.append(token)
                ends.append(offset + token_end)
            if number < len(gaps):
                symbols.append(-1 - n_images)
                ends.append(stop)
                n_images += 1
            offset = stop
        for _, stop in answers if self.template != "pretrain" else ():
            last = symbols[bisect_right(ends, stop) - 1]
            if last != self.end_id:
                raise UserError(
                    f"llm.conversation={self.template}: the answer that ends in "
                    f"{text[max(0, stop - 30) : stop]!r} was tokenized so that its last token is "
                    f"{self._name(last)}, expected {self._name(self.end_id)}; use another end token"
                )
        learned = [
            span for start, stop in answers for span in _without_images(symbols, ends, start, stop)
        ]
        return TokenSequence(tuple(symbols), tuple(learned))

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

    def _write(self, rounds: Rounds) -> tuple[str, list[tuple[int, int]], int]:
        """The whole text, where the answers with their end tokens stand in it, and its end."""
        if self.template == "chat":
            return self._write_chat(rounds)
        text = MEDMVL_SYSTEM if self.template == "medmvl" else ""
        answers: list[tuple[int, int]] = []
        for question, answer in rounds:
            if self.template == "medmvl":
                text += f"USER: {question.strip()} ASSISTANT:"
                tail = "" if answer is None else f" {answer.strip()}{self.end_token}"
            else:
                text += "".join(PLACEHOLDER.findall(question))
                tail = "" if answer is None else answer.strip()
            if answer is not None:
                answers.append((len(text), len(text) + len(tail)))
            text += tail
        return text, answers, len(text)

    def _write_chat(self, rounds: Rounds) -> tuple[str, list[tuple[int, int]], int]:
        turns: list[dict[str, str]] = []
        answers: list[tuple[int, int]] = []
        text, end = "", 0
        for question, answer in rounds:
            turns.append({"role": "user", "content": question})
            prompt = self._chat(turns, waits=True)
            if not prompt.startswith(text[:end]):
                raise UserError(
                    "llm.conversation=chat: this tokenizer's chat template rewrites earlier turns; "
                    "use llm.conversation=medmvl"
                )
            if answer is None:
                return prompt, answers, len(prompt)
            text, stop = self._chat_answer(turns, prompt, answer)
            turns.append({"role": "assistant", "content": answer})
            token, length = self._turn_end(text[stop:])
            if token != self.end_id:
                raise UserError(
                    "llm.conversation=chat: this tokenizer's chat template ends one answer in "
                    f"{self._name(self.end_id)} and another in {self._name(token)}; use "
                    "llm.conversation=medmvl"
                )
            end = stop + length
            answers.append((len(prompt), end))
        return text, answers, end

    def _chat_answer(
        self, turns: Sequence[dict[str, str]], prompt: str, answer: str
    ) -> tuple[str, int]:
        """The text with the answer to the last turn, and where the answer stops in it."""
        text = self._chat([*turns, {"role": "assistant", "content": answer}], waits=False)
        if not text.startswith(prompt) or not text[len(prompt) :].lstrip().startswith(answer):
            raise UserError(
                "llm.conversation=chat: this tokenizer's chat template does not write the "
                "answer right after its generation prompt; use llm.conversation=medmvl"
            )
        return text, text.index(answer, len(prompt)) + len(answer)

    def _turn_end(self, tail: str) -> tuple[int, int]:
        """The token that ends an answer in what a chat template writes behind it, and where.

        White space may stand before it, which is learned with the answer.
        """
        encoded = self.tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, stop) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            if token in self._ends:
                return int(token), stop
            if tail[start:stop].strip():
                break
        raise UserError(
            "llm.conversation=chat: this tokenizer's chat template puts no end token after an "
            f"answer: expected its eos ({self.tokenizer.eos_token}) or another added token, found "
            f"{tail[:30]!r}; mend the template, or use llm.conversation=medmvl"
        )

    def _name(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def _chat(self, turns: Sequence[dict[str, str]], *, waits: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=waits
            )
        except Exception as error:  # a template is a program that comes with the tokenizer
            raise UserError(
                f"llm.conversation=chat: this tokenizer's chat template cannot be filled: {error}; "
                "mend it, or use llm.conversation=medmvl"
            ) from error
        return str(text)


def _end_tokens(tokenizer: Any) -> frozenset[int]:
    """The tokens that may end an answer: eos, and the added ones that are not white space."""
    added = tokenizer.added_tokens_decoder.items()
    ends = {number for number, token in added if token.content.strip()}
    return frozenset(ends | {tokenizer.eos_token_id} - {None})


def _without_images(
    symbols: Sequence[int], ends: Sequence[int], start: int, stop: int
) -> list[tuple[int, int]]:
    """The places of the symbols that end in (start, stop] of the text, in runs of tokens."""
    runs: list[tuple[int, int]] = []
    first = max(1, bisect_right(ends, start))  # nothing comes before a first token to predict it
    for place in range(first, bisect_right(ends, stop)):
        if symbols[place] < 0:
            continue
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs
