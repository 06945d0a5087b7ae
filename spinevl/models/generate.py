"""Greedy decoding of a batch of prompts with images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spinevl.models.splice import splice
from spinevl.models.vlm import VLM


@torch.inference_mode()
def greedy(
    model: VLM,
    *,
    prompts: Sequence[Sequence[int]],
    images: Sequence[Sequence[int]],
    visual_tokens: torch.Tensor,
    end_id: int,
    max_new_tokens: int,
) -> list[str]:
    """The most probable next token, again and again, until the end token.

    The base model's own sampling settings are not applied.

    Args:
        model: in evaluation mode.
        prompts: symbols of each prompt, ``-1 - k`` where its image k stands.
        images: which rows of ``visual_tokens`` are the images of each prompt.
        visual_tokens: [U, N, llm.dim].
        end_id: ends an answer.
        max_new_tokens: the longest answer.

    Returns:
        The answer texts without the end token; cut where ``max_new_tokens`` ran out.
    """
    device = next(model.parameters()).device
    n = model.tokens_per_image
    rows: list[list[tuple[int, int]]] = []
    for prompt, own in zip(prompts, images, strict=True):
        row: list[tuple[int, int]] = []
        for symbol in prompt:
            if symbol >= 0:
                row.append((symbol, -1))
            else:
                first = own[-1 - symbol] * n
                row.extend((0, first + k) for k in range(n))
        rows.append(row)
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    visual_index = torch.full_like(ids, -1)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):  # left-padded: the next token of every row is in line
        start = length - len(row)
        ids[number, start:] = torch.tensor([token for token, _ in row])
        visual_index[number, start:] = torch.tensor([index for _, index in row])
        mask[number, start:] = 1
    embeddings = splice(model.llm.embed(ids.to(device)), visual_tokens, visual_index.to(device))
    tokens = _decode(model, embeddings, mask.to(device), end_id, max_new_tokens)
    return [
        model.llm.tokenizer.decode(row[: row.index(end_id)] if end_id in row else row)
        for row in tokens.tolist()
    ]


def _decode(
    model: VLM, embeddings: torch.Tensor, mask: torch.Tensor, end_id: int, max_new_tokens: int
) -> torch.Tensor:
    """Greedy tokens [B, <= max_new_tokens], with a KV cache."""
    base = model.llm.model.base_model
    position = mask.cumsum(1).clamp(min=1) - 1
    cache = None
    done = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    produced: list[torch.Tensor] = []
    for _ in range(max_new_tokens):
        output = base(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        token = model.llm.logits(output.last_hidden_state[:, -1]).argmax(-1)
        token = torch.where(done, end_id, token)
        produced.append(token)
        done |= token == end_id
        if bool(done.all()):
            break
        embeddings = model.llm.embed(token[:, None])
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = position[:, -1:] + 1
    return torch.stack(produced, dim=1)
