"""Keys and values of prompts that share prefixes, and of the answers that follow them.

The keys of a shared prefix are there once for all prompts of a context, and are read once in a step
for all of them (as in Hydragen, Juravsky et al. 2024, arXiv 2402.05099). An answer that has ended
takes no part in the steps that follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from spinevl.models.masked_attention import additive_mask, masked_attention
from spinevl.schema.batch import AttentionBlocks

_FIRST_STEPS = 16
"""Steps for which room is made at first; later for half as many as there were."""


class AnswerCache:
    """What the tokens of answers attend to.

    Args:
        contexts: of the prompts, see PromptBatch.
        dtype: of the masks.
    """

    def __init__(self, contexts: Sequence[AttentionBlocks], *, dtype: torch.dtype) -> None:
        self._contexts = [_Context(one, dtype) for one in contexts]
        self._rows: list[torch.Tensor] = []  # of a step's tokens, in each context

    def keep(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """Take in the prompts' keys and values [B * L, heads, d] of a layer."""
        for one in self._contexts:
            one.keep(layer, key, value)

    def begin(self, prompts: Sequence[int]) -> None:
        """Begin a step with one token of each of some answers, by the numbers of their prompts."""
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        self._rows = []
        for one in self._contexts:
            own = [prompt for prompt in one.place_of if prompt in row_of]
            rows = [row_of[prompt] for prompt in own]
            self._rows.append(torch.tensor(rows, dtype=torch.long, device=one.mask.device))
            one.begin(own)

    def attend(
        self,
        layer: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """A step's query, key and value [1, heads, R, d] -> [1, R, heads, d]; keys have fewer heads
        where queries share them.
        """
        flat_query, flat_key, flat_value = (one[0].transpose(0, 1) for one in (query, key, value))
        output = flat_query.new_empty(len(flat_query), query.shape[1], value.shape[-1])
        for one, rows in zip(self._contexts, self._rows, strict=True):
            if len(rows):
                given = (flat_query[rows], flat_key[rows], flat_value[rows])
                output[rows] = one.attend(layer, *given, scaling)
        return output[None]


class _Context:
    """g contexts of up to q prompts each, and their keys: the prompts', then those of each step.

    Attributes:
        place_of: number of a prompt -> its place among the g * q queries.
        mask: [g, q, room] additive.
    """

    def __init__(self, block: AttentionBlocks, dtype: torch.dtype) -> None:
        self.lowest = torch.finfo(dtype).min
        self.mask = additive_mask(block.allowed, dtype)
        places = block.query.flatten().tolist()
        # padding repeats a context's first prompt
        self.place_of = {prompt: place for place, prompt in reversed(list(enumerate(places)))}
        self.used = block.key.shape[1]
        self._steps = 0
        self._prompt_keys = block.key
        self._kept: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        self._at = torch.zeros(0, dtype=torch.long)

    def keep(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """[B * L, heads, d] -> [g, heads, keys, d] of this context."""
        index = self._prompt_keys
        gathered = [
            one.index_select(0, index.flatten()).unflatten(0, index.shape).transpose(1, 2)
            for one in (key, value)
        ]
        self._kept[layer] = (gathered[0].contiguous(), gathered[1].contiguous())

    def begin(self, prompts: Sequence[int]) -> None:
        """Make room for a token of each of these prompts' answers, which sees its own alone."""
        if not prompts:
            self._kept = {}
            return
        self._leave_out_the_rest(prompts)
        queries, room = self.mask.shape[1:]
        if self.used + queries > room:
            more = queries * max(_FIRST_STEPS, self._steps // 2)
            self.mask = functional.pad(self.mask, (0, more), value=self.lowest)
            self._kept = {
                layer: tuple(functional.pad(one, (0, 0, 0, more)) for one in pair)  # type: ignore[misc]
                for layer, pair in self._kept.items()
            }
        self._at = torch.tensor([self.place_of[one] for one in prompts], device=self.mask.device)
        self.mask[self._at // queries, self._at % queries, self.used + self._at % queries] = 0
        self.used += queries
        self._steps += 1

    def _leave_out_the_rest(self, prompts: Sequence[int]) -> None:
        """Let go of contexts in which every answer has ended, once they are half of all."""
        count, queries, _ = self.mask.shape
        left = sorted({self.place_of[one] // queries for one in prompts})
        if 2 * len(left) > count:
            return
        chosen = torch.tensor(left, device=self.mask.device)
        self.mask = self.mask[chosen]
        self._kept = {layer: (k[chosen], v[chosen]) for layer, (k, v) in self._kept.items()}
        moved = {old: new for new, old in enumerate(left)}
        self.place_of = {
            one: moved[place // queries] * queries + place % queries
            for one, place in self.place_of.items()
            if place // queries in moved
        }

    def attend(
        self,
        layer: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """A step's query, key and value [n, heads, d] -> [n, heads, d]; see AnswerCache.attend."""
        count, queries, _ = self.mask.shape
        keys, values = self._kept[layer]
        member, own = self._at // queries, self._at % queries
        place = self.used - queries + own
        keys[member, :, place], values[member, :, place] = key, value
        padded = query.new_zeros(count * queries, *query.shape[1:])
        padded[self._at] = query
        output = masked_attention(
            padded.unflatten(0, (count, queries)).transpose(1, 2),
            keys[:, :, : self.used],
            values[:, :, : self.used],
            self.mask[:, None, :, : self.used],
            scaling=scaling,
        )
        return output.transpose(1, 2).flatten(0, 1)[self._at]
