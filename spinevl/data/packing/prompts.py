"""Lay prompts out whose answers are to be generated: a PromptBatch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spinevl.config.options import Packing
from spinevl.data.packing.attention_blocks import attention_blocks, contexts
from spinevl.data.packing.layout import Sequenced, packed_rows
from spinevl.schema.prompt_batch import PromptBatch


def lay_out_prompts(
    prompts: Sequence[tuple[np.ndarray, np.ndarray]], *, packing: Packing = Packing.tree
) -> PromptBatch:
    """Prompts in rows.

    Args:
        prompts: two arrays [L] each: symbols (token ids where 0 or more), and the row of the
            visual token at each position, -1 where a token id stands.
        packing: see Collator; ``tree`` lets prompts share the tokens that they begin with.
    """
    # a visual token is named by its row, so that one stands for the same image in every prompt
    named = [np.where(rows >= 0, -1 - rows, symbols).tolist() for symbols, rows in prompts]
    lengths = [len(one) for one in named]
    rows = packed_rows(
        # the answer's first token, whatever it will be, takes no place in the row
        [
            Sequenced(number, -1, (*one, 0), ((len(one), len(one) + 1),), 1.0)
            for number, one in enumerate(named)
        ],
        packing,
    )
    width = max(len(row.symbols) for row in rows)
    symbols = np.zeros((len(rows), width), dtype=np.int64)
    depth = np.zeros_like(symbols)
    last: list[int] = []
    for number, row in enumerate(rows):
        symbols[number, : len(row.symbols)] = row.symbols
        depth[number, : len(row.symbols)] = row.depth
        last += [int(target[0, 0]) + number * width for target in row.targets]
    blocks, order = attention_blocks(rows, length=width)
    return PromptBatch(
        input_ids=torch.from_numpy(np.maximum(symbols, 0)),
        visual_index=torch.from_numpy(np.where(symbols < 0, -1 - symbols, -1)),
        position_ids=torch.from_numpy(depth),
        attention=blocks,
        attention_order=order,
        last=torch.tensor(last),
        lengths=torch.tensor(lengths),
        contexts=contexts(rows, last, length=width),
    )
