"""Greedy decoding of a batch of prompts with images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spinevl.models.splice import splice
from spinevl.models.vlm import VLM


@torch.inference_mode()
def greedy(
    model: VLM,
    *,
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
    visual_rows: torch.Tensor,
    end_id: int,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
) -> list[list[int] | None]:
    """The most probable next token, again and again, until the end token.

    The base model's own sampling settings are not applied.

    Args:
        model: in evaluation mode.
        prompts: two arrays [L] each: symbols (token ids where 0 or more), and the row of the
            visual token at each position, -1 where a token id stands.
        visual_rows: [R, llm.dim], the visual tokens of all images.
        end_id: ends an answer.
        max_new_tokens: the longest answer.
        repetition_penalty: divides positive and multiplies negative logits of tokens that the
            answer already has (Keskar et al. 2019, arXiv 1909.05858).

    Returns:
        The tokens of the answers without the end token; cut where ``max_new_tokens`` ran out, None
        where logits were not finite.
    """
    embeddings, mask = _left_padded(model, prompts, visual_rows)
    position = mask.cumsum(1).clamp(min=1) - 1
    cache = None
    done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    finite = ~done
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
        finite &= done | logits.isfinite().all(-1)
        if repetition_penalty != 1 and produced:
            said = torch.stack(produced, dim=1)
            known = logits.gather(1, said)
            factor = torch.where(known > 0, 1 / repetition_penalty, repetition_penalty)
            logits = logits.scatter(1, said, known * factor)
        token = torch.where(done, end_id, logits.argmax(-1))
        produced.append(token)
        done |= (token == end_id) | ~finite
        if bool(done.all()):
            break
        embeddings = model.llm.embed(token[:, None])
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = position[:, -1:] + 1
    tokens = torch.stack(produced, dim=1).tolist()
    cut = [row[: row.index(end_id)] if end_id in row else row for row in tokens]
    return [row if known else None for row, known in zip(cut, finite.tolist(), strict=True)]


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
