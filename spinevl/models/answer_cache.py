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

_FIRST_STEPS = 64
"""Steps for which room is made with the prompts; later for as many as there were."""


class AnswerCache:
    """What the tokens of answers attend to.

    Args:
        longest: the most steps.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._contexts: list[_Context] = []
        self._being_read: list[_Context] = []
        self._rows: list[slice | torch.Tensor] = []  # of a step's tokens, in each context

    def begin_prompts(
        self, contexts: Sequence[AttentionBlocks], *, dtype: torch.dtype, first: int = 0
    ) -> None:
        """Begin to read prompts.

        Args:
            contexts: see PromptBatch.
            dtype: of the masks.
            first: number of the first prompt.
        """
        self._being_read = [_Context(one, dtype, first, self._longest) for one in contexts]
        self._contexts += self._being_read

    def keep(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """Take in keys and values [B * L, heads, d] of a layer, of the prompts that are read."""
        for one in self._being_read:
            one.keep(layer, key, value)

    def begin_step(self, prompts: Sequence[int]) -> None:
        """Begin a step with one token of each of some answers, by the numbers of their prompts.

        Where all answers of a context have ended, its keys are let go of.
        """
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        before = self._contexts
        self._contexts, self._being_read, self._rows = [], [], []
        for one in before:
            if own := [prompt for prompt in one.place_of if prompt in row_of]:
                one.begin_step(own)
                self._contexts.append(one)
                self._rows.append(_index([row_of[prompt] for prompt in own], one.mask.device))

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
            given = (flat_query[rows], flat_key[rows], flat_value[rows])
            output[rows] = one.attend(layer, *given, scaling)
        return output[None]


def _index(places: Sequence[int], device: torch.device) -> slice | torch.Tensor:
    """What selects some places; a slice where one follows the other, since that copies nothing."""
    run = range(places[0], places[0] + len(places))
    if list(places) == list(run):
        return slice(run.start, run.stop)
    return torch.tensor(places, dtype=torch.long, device=device)


class _Context:
    """g contexts of up to q prompts each, and their keys: the prompts', then those of each step.

    Args:
        block: see PromptBatch.contexts.
        dtype: of the mask.
        first: number of the first prompt.
        longest: see AnswerCache.

    Attributes:
        place_of: number of a prompt -> its place among the g * q queries.
        mask: [g, q, room] additive.
    """

    def __init__(
        self, block: AttentionBlocks, dtype: torch.dtype, first: int, longest: int
    ) -> None:
        self._longest = longest
        self.lowest = torch.finfo(dtype).min
        room = block.query.shape[1] * min(_FIRST_STEPS, longest)
        self.mask = self._wider_mask(additive_mask(block.allowed, dtype), room)
        self.place_of: dict[int, int] = {}
        for place, number in enumerate(block.query.flatten().tolist()):
            self.place_of.setdefault(first + number, place)  # padding repeats the first prompt
        self.used = block.key.shape[1]
        self._steps = 0
        self._prompt_keys = block.key
        self._kept: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        self._at: torch.Tensor | None = None  # of a step's queries; None where there are all

    def keep(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """[B * L, heads, d] -> [g, heads, room, d] of this context, with room for steps."""
        self._kept[layer] = (self._gathered(key), self._gathered(value))

    def _gathered(self, flat: torch.Tensor) -> torch.Tensor:
        index = self._prompt_keys
        count, room = len(index), self.mask.shape[-1]
        kept = flat.new_empty(count, flat.shape[1], room, flat.shape[-1])
        found = flat.index_select(0, index.flatten()).unflatten(0, index.shape)
        kept[:, :, : self.used] = found.transpose(1, 2)
        return kept

    def begin_step(self, prompts: Sequence[int]) -> None:
        """Make room for a token of each of these prompts' answers, which sees its own alone."""
        self._leave_out_the_rest(prompts)
        count, queries, room = self.mask.shape
        if self.used + queries > room:
            self._make_room(queries * min(self._steps, self._longest - self._steps))
        places = [self.place_of[one] for one in prompts]
        at = torch.tensor(places, device=self.mask.device)
        self.mask[at // queries, at % queries, self.used + at % queries] = 0
        self._at = None if places == list(range(count * queries)) else at
        self.used += queries
        self._steps += 1

    def _make_room(self, more: int) -> None:
        self.mask = self._wider_mask(self.mask, more)
        for layer, pair in self._kept.items():
            self._kept[layer] = tuple(self._widened(one, more) for one in pair)  # type: ignore[assignment]

    def _wider_mask(self, mask: torch.Tensor, more: int) -> torch.Tensor:
        return functional.pad(mask, (0, more), value=self.lowest)

    def _widened(self, kept: torch.Tensor, more: int) -> torch.Tensor:
        """[g, heads, keys, d] with room for more keys; only what is used is copied."""
        count, heads, keys, dim = kept.shape
        wide = kept.new_empty(count, heads, keys + more, dim)
        wide[:, :, : self.used] = kept[:, :, : self.used]
        return wide

    def _leave_out_the_rest(self, prompts: Sequence[int]) -> None:
        """Let go of contexts in which every answer has ended, once they are half of all."""
        count, queries, _ = self.mask.shape
        left = sorted({self.place_of[one] // queries for one in prompts})
        if 2 * len(left) > count:
            return
        chosen = torch.tensor(left, device=self.mask.device)
        self.mask = self.mask[chosen]
        for layer, (key, value) in self._kept.items():  # one after the other, to save memory
            self._kept[layer] = (key[chosen], value[chosen])
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
        step = slice(self.used - queries, self.used)
        padded = query
        if self._at is None:
            for kept, new in ((keys, key), (values, value)):
                kept[:, :, step] = new.unflatten(0, (count, queries)).transpose(1, 2)
        else:
            member, own = self._at // queries, self._at % queries
            for kept, new in ((keys, key), (values, value)):
                # where an answer has ended; the room was not filled, and 0 * NaN is NaN
                kept[:, :, step] = 0
                kept[member, :, step.start + own] = new
            padded = query.new_zeros(count * queries, *query.shape[1:])
            padded[self._at] = query
        output = masked_attention(
            padded.unflatten(0, (count, queries)).transpose(1, 2),
            keys[:, :, : self.used],
            values[:, :, : self.used],
            self.mask[:, None, :, : self.used],
            scaling=scaling,
        )
        flat = output.transpose(1, 2).flatten(0, 1)
        return flat if self._at is None else flat[self._at]
