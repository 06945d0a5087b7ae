"""Decode a batch of prompts with images: greedily, or by sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spinevl.models.splice import splice
from spinevl.models.vlm import VLM

NOT_FINITE = -1
"""In place of a token whose logits were not finite."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token.
        top_p: draw from the most probable tokens whose probabilities sum to this much (Holtzman et
            al. 2020, arXiv 1904.09751).
        repetition_penalty: divides positive and multiplies negative logits of tokens that the
            answer already has (Keskar et al. 2019, arXiv 1909.05858).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def next_token(self, logits: torch.Tensor, said: Sequence[torch.Tensor]) -> torch.Tensor:
        """The next token of each answer [B], after the tokens [B] that were said; logits [B, V]."""
        if self.repetition_penalty != 1 and said:
            before = torch.stack(list(said), dim=1)
            known = logits.gather(1, before)
            factor = torch.where(known > 0, 1 / self.repetition_penalty, self.repetition_penalty)
            logits = logits.scatter(1, before, (known * factor).to(logits.dtype))
        if self.temperature == 0:
            return logits.argmax(-1)
        scaled = (logits.float() - logits.max(-1, keepdim=True).values) / self.temperature
        sorted_, order = torch.softmax(scaled, dim=-1).sort(descending=True)
        before_it = sorted_.cumsum(-1) - sorted_  # the first one is always kept
        drawn = torch.multinomial(sorted_.where(before_it < self.top_p, 0.0), 1)
        return order.gather(1, drawn)[:, 0]


def greedy(
    model: VLM,
    *,
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
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
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
    visual_rows: torch.Tensor,
    end_id: int,
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[torch.Tensor]:
    """The tokens of answers, step by step, until all have ended.

    Args:
        model: in evaluation mode.
        prompts: two arrays [L] each: symbols (token ids where 0 or more), and the row of the
            visual token at each position, -1 where a token id stands.
        visual_rows: [R, llm.dim], the visual tokens of all images.
        end_id: ends an answer.
        max_new_tokens: the longest answer.
        sampling: how a token is chosen.

    Yields:
        The next token of each answer [B]: ``end_id`` once it has ended, NOT_FINITE where logits
        were not finite, which ends it too.
    """
    embeddings, mask = _left_padded(model, prompts, visual_rows)
    position = mask.cumsum(1).clamp(min=1) - 1
    cache = None
    done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    produced: list[torch.Tensor] = []
    for _ in range(max_new_tokens):
        with model.llm.autocast():
            output = model.llm.model.base_model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
        cache = output.past_key_values
        logits = model.llm.logits(output.last_hidden_state[:, -1])
        finite = logits.isfinite().all(-1)
        chosen = sampling.next_token(logits.where(finite[:, None], 0.0), produced)
        token = torch.where(done, end_id, chosen)
        produced.append(token)
        yield torch.where(done | finite, token, NOT_FINITE)
        done |= (token == end_id) | ~finite
        if bool(done.all()):
            break
        embeddings = model.llm.embed(token[:, None])
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = position[:, -1:] + 1


def _left_padded(
    model: VLM, prompts: Sequence[tuple[np.ndarray, np.ndarray]], visual_rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [B, L, llm.dim] and mask [B, L]; every row ends in the last column."""
    device = next(model.parameters()).device
    length = max(len(symbols) for symbols, _ in prompts)
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    visual_index = torch.full_like(ids, -1)
    mask = torch.zeros_like(ids)
    for number, (symbols, rows) in enumerate(prompts):
        start = length - len(symbols)
        ids[number, start:] = torch.from_numpy(symbols).clamp(min=0)
        visual_index[number, start:] = torch.from_numpy(rows)
        mask[number, start:] = 1
    embeddings = splice(model.llm.embed(ids.to(device)), visual_rows, visual_index.to(device))
    return embeddings, mask.to(device)
