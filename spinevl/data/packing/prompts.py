"""Lay prompts out whose answers are to be generated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np
import torch

from spinevl.config.options import Attention, Packing
from spinevl.data.packing.attention_blocks import attention_fields, contexts, row_length
from spinevl.data.packing.layout import Sequenced, packed_rows
from spinevl.data.packing.prefix_tree import shared
from spinevl.schema.prompt_batch import PromptBatch

_MOST_TOKENS = 2048
_MOST_BATCHES = 4
"""Prompts are read in batches of so many tokens, or more where there would be too many batches.

The memory that reading takes grows with a batch, its speed hardly does. But in each step the
answers attend to the keys of one batch after the other.
"""


def lay_out_prompts(
    prompts: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    steps: int,
    patients: Sequence[Hashable] = (),
    packing: Packing = Packing.tree,
    attention: Attention = Attention.blocks,
) -> list[PromptBatch]:
    """Prompts in rows, in batches that are read one after the other.

    Args:
        prompts: two arrays [L] each: symbols (token ids where 0 or more), and the row of the
            visual token at each position, -1 where a token id stands.
        steps: tokens of the longest answer.
        patients: whom each is about; consecutive prompts about one are in one batch. Without
            ``patients`` all prompts are.
        packing, attention: see Collator; ``tree`` lets prompts share the tokens that they begin
            with.
    """
    # a visual token is named by its row, so that one stands for the same image in every prompt
    named = [np.where(rows >= 0, -1 - rows, symbols).tolist() for symbols, rows in prompts]
    most = max(_MOST_TOKENS, _tokens(named, packing) // _MOST_BATCHES)
    batches: list[list[list[int]]] = []
    owned = zip(patients or [None] * len(named), named, strict=True)
    for _, group in groupby(owned, key=itemgetter(0)):
        members = [one for _, one in group]
        if not batches or _tokens([*batches[-1], *members], packing) > most:
            batches.append([])
        batches[-1] += members
    return [_laid_out(one, packing, attention, steps) for one in batches]


def _tokens(prompts: Sequence[list[int]], packing: Packing) -> int:
    """How many tokens are read for some prompts; in a tree, at most."""
    if packing == Packing.off:
        return len(prompts) * max(map(len, prompts))
    tokens = sum(map(len, prompts))
    if packing == Packing.tree:
        tokens -= sum(shared(one, other) for one, other in pairwise(prompts))
    return tokens


def _laid_out(
    named: Sequence[list[int]], packing: Packing, attention: Attention, steps: int
) -> PromptBatch:
    lengths = [len(one) for one in named]
    rows = packed_rows(
        # the answer's first token, whatever it will be, takes no place in the row
        [
            Sequenced(number, -1, (*one, 0), ((len(one), len(one) + 1),), 1.0)
            for number, one in enumerate(named)
        ],
        packing,
    )
    width = row_length(rows, attention)
    symbols = np.zeros((len(rows), width), dtype=np.int64)
    depth = np.zeros_like(symbols)
    last: list[int] = []
    for number, row in enumerate(rows):
        symbols[number, : len(row.symbols)] = row.symbols
        depth[number, : len(row.symbols)] = row.depth
        last += [int(target[0, 0]) + number * width for target in row.targets]
    return PromptBatch(
        input_ids=torch.from_numpy(np.maximum(symbols, 0)),
        visual_index=torch.from_numpy(np.where(symbols < 0, -1 - symbols, -1)),
        position_ids=torch.from_numpy(depth),
        **attention_fields(rows, length=width, attention=attention),
        last=torch.tensor(last),
        lengths=torch.tensor(lengths),
        contexts=contexts(rows, last, length=width, steps=steps),
    )
