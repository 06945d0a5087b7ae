"""Decode a batch of prompts with images: greedily, or by sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from spinevl.models.answer_cache import AnswerCache
from spinevl.models.splice import splice
from spinevl.models.vlm import VLM
from spinevl.schema.errors import Problems
from spinevl.schema.prompt_batch import PromptBatch

_COLDEST = 1e-30
"""Of temperatures by which float32 can be divided; a lower one is 0."""

NOT_FINITE = -1
"""In place of a token whose logits were not finite."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits, up to 1000; 0 takes the most probable token.
        top_p: draw from the most probable tokens whose probabilities sum to this much (Holtzman et
            al. 2020, arXiv 1904.09751).
        repetition_penalty: divides positive and multiplies negative logits of tokens that the
            answer already has (Keskar et al. 2019, arXiv 1909.05858); 0.01 to 1000.

    Raises:
        UserError: a number outside its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        problems = Problems()
        for name, least, most, expected in (
            ("temperature", 0.0, 1e3, "0 to 1000"),
            ("top_p", 1e-30, 1.0, "more than 0, and at most 1"),
            ("repetition_penalty", 1e-2, 1e3, "0.01 to 1000"),
        ):
            found = getattr(self, name)
            if type(found) not in (int, float) or not least <= found <= most:
                problems.add(f"Sampling.{name}", expected, f"{found}", "choose such a number")
        problems.raise_any()

    def next_token(self, logits: torch.Tensor, said: Sequence[torch.Tensor]) -> torch.Tensor:
        """The next token of each answer [B], after the tokens [B] that were said; logits [B, V]."""
        if self.repetition_penalty != 1 and said:
            before = torch.stack(list(said), dim=1)
            known = logits.gather(1, before)
            factor = torch.where(known > 0, 1 / self.repetition_penalty, self.repetition_penalty)
            logits = logits.scatter(1, before, (known * factor).to(logits.dtype))
        if self.temperature < _COLDEST:
            return logits.argmax(-1)
        scaled = (logits.float() - logits.max(-1, keepdim=True).values) / self.temperature
        sorted_, order = torch.softmax(scaled, dim=-1).sort(descending=True)
        before_it = sorted_.cumsum(-1) - sorted_  # the first one is always kept
        drawn = torch.multinomial(sorted_.where(before_it < self.top_p, 0.0), 1)
        return order.gather(1, drawn)[:, 0]


def greedy(
    model: VLM,
    *,
    prompts: Sequence[PromptBatch],
    visual_rows: torch.Tensor,
    end_id: int,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    each_step: Callable[[], object] = bool,
) -> list[list[int] | None]:
    """The most probable next token, again and again, until the end token.

    The base model's own sampling settings are not applied.

    Args:
        model, prompts, visual_rows, end_id, max_new_tokens: see generate.
        repetition_penalty: see Sampling.
        each_step: called at each token; what it raises ends the decoding.

    Returns:
        The tokens of the answers without the end token; cut where ``max_new_tokens`` ran out, None
        where logits were not finite.
    """
    produced = []
    for tokens in generate(
        model,
        prompts=prompts,
        visual_rows=visual_rows,
        end_id=end_id,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(repetition_penalty=repetition_penalty),
    ):
        each_step()
        produced.append(tokens)
    rows = torch.stack(produced, dim=1).tolist()
    cut = [row[: row.index(end_id)] if end_id in row else row for row in rows]
    return [None if NOT_FINITE in row else row for row in cut]


@torch.inference_mode()
def generate(
    model: VLM,
    *,
    prompts: Sequence[PromptBatch],
    visual_rows: torch.Tensor,
    end_id: int,
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[torch.Tensor]:
    """The tokens of answers, step by step, until all have ended.

    What prompts share is read once, and its keys are held once for all answers that follow it; an
    answer that has ended takes no part in later steps.

    Args:
        model: in evaluation mode.
        prompts: as they are laid out; one batch is read after the other, all are answered together.
        visual_rows: [R, llm.dim], the visual tokens of all images.
        end_id: ends an answer.
        max_new_tokens: the longest answer.
        sampling: how a token is chosen.

    Yields:
        The next token of each answer [N]: ``end_id`` once it has ended, NOT_FINITE where logits
        were not finite, which ends it too.
    """
    device = next(model.parameters()).device
    prompts = [one.to(device) for one in prompts]
    states, answers = _read(model, prompts, visual_rows, max_new_tokens)
    lengths = torch.cat([one.lengths for one in prompts])
    going_on = torch.arange(len(lengths), device=device)
    produced: list[torch.Tensor] = []
    for number in range(max_new_tokens):
        logits = model.llm.logits(states)
        finite = logits.sum(-1).isfinite()  # one pass; a sum that overflows is looked at again
        if not finite.all():
            finite = logits.isfinite().all(-1)
            logits = logits.where(finite[:, None], 0.0)
        said = [tokens[going_on] for tokens in produced]
        chosen = sampling.next_token(logits, said)
        told = torch.full_like(lengths, end_id)
        told[going_on] = torch.where(finite, chosen, NOT_FINITE)
        produced.append(told)
        yield told
        left = finite & (chosen != end_id)
        going_on, chosen = going_on[left], chosen[left]
        if not len(going_on) or number + 1 == max_new_tokens:
            return
        answers.begin_step(going_on.tolist())
        places = lengths[going_on] + number
        states = model.llm.hidden(
            model.llm.embed(chosen)[None], None, places[None], answers=answers
        )
        states = states[0]


def _read(
    model: VLM, prompts: Sequence[PromptBatch], visual_rows: torch.Tensor, longest: int
) -> tuple[torch.Tensor, AnswerCache]:
    """The hidden state of each prompt's last token [N, dim], and what its answer attends to."""
    answers = AnswerCache(longest - 1)  # the last token is not read
    states: list[torch.Tensor] = []
    for batch in prompts:
        embeddings = splice(model.llm.embed(batch.input_ids), visual_rows, batch.visual_index)
        answers.begin_prompts(batch.contexts, dtype=embeddings.dtype, first=sum(map(len, states)))
        states.append(_last_states(model, batch, embeddings, answers))
    return torch.cat(states), answers


def _last_states(
    model: VLM, prompts: PromptBatch, embeddings: torch.Tensor, answers: AnswerCache
) -> torch.Tensor:
    """The hidden state of each prompt's last token [N, dim]; ``answers`` take in all keys."""
    masks = model.llm.masks(prompts, dtype=embeddings.dtype)
    places, last = prompts.position_ids, prompts.last
    hidden = model.llm.hidden(embeddings, masks, places, read=last, answers=answers)
    return hidden.flatten(0, 1).index_select(0, last)
