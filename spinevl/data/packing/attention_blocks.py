"""Cut prefix trees into attention blocks: queries side by side, each with the keys it may see.

A dense mask over a packed row costs the square of its length; a token of a tree sees only the few
places between it and its root. So a long chain of tokens becomes one block, a small subtree
another, and blocks of like size are computed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from spinevl.config.options import Attention
from spinevl.data.packing.prefix_tree import PackedRow
from spinevl.schema.batch import FLEX_TILE, AttentionBlocks, Chains

# A subtree of up to this many tokens is one block with a mask of its own; above it, its first
# chain is a block and its branches are cut further.
SMALL_SUBTREE = 128
# Blocks share a tensor as long as their padding stays below this share of the work.
MOST_PADDING = 0.25
# Keys are padded to a multiple of this: numbers in a vector register of any processor. CPU kernels
# compute a remainder number by number, which took half of attention's time in bfloat16.
KEY_MULTIPLE = 32


class _Block(NamedTuple):
    """Tokens side by side, and those that they may attend to.

    Attributes:
        query: [q] places of the tokens, one after the other.
        key: [k] places of those above them, and then their own.
        end: [q] one past the last place of each token's subtree.
    """

    query: np.ndarray
    key: np.ndarray
    end: np.ndarray

    @property
    def is_chain(self) -> bool:
        """Whether each query attends to all keys but the queries after it."""
        return bool((self.end > self.query[-1]).all())

    def sees(self) -> np.ndarray:
        """[q, k] bool, whether a query attends to a key."""
        above = np.ones((len(self.query), len(self.key) - len(self.query)), dtype=bool)
        place = self.query[:, None]
        inside = (self.query[None] <= place) & (place < self.end[None])
        return np.concatenate([above, inside], axis=1)


class _Context(NamedTuple):
    """Prompts, and the tokens that what follows them attends to.

    Attributes:
        query: [q] numbers of the prompts.
        key: [k] places of the tokens.
        allowed: [q, k] bool, whether a prompt has a token.
    """

    query: np.ndarray
    key: np.ndarray
    allowed: np.ndarray

    def sees(self) -> np.ndarray:
        """[q, k] bool, whether a query attends to a key."""
        return self.allowed


_Sized = TypeVar("_Sized", _Block, _Context)


def _shape(one: _Block | _Context) -> tuple[int, int]:
    """Queries and keys."""
    return len(one.query), len(one.key)


def attention_fields(
    rows: Sequence[PackedRow], *, length: int, attention: Attention
) -> dict[str, Any]:
    """What the tokens of packed rows attend to, as the fields of a Batch that say so.

    Args:
        rows, length: see attention_blocks.
        attention: in blocks, or by the ends of subtrees [B, L]; padding attends to itself.

    Returns:
        ``attention``, ``attention_order`` and, without blocks, ``subtree_end``.
    """
    if attention == Attention.blocks:
        blocks, order = attention_blocks(rows, length=length)
        return {"attention": blocks, "attention_order": order}
    end = np.tile(np.arange(1, length + 1), (len(rows), 1))
    for number, row in enumerate(rows):
        end[number, : len(row.symbols)] = row.subtree_end
    nothing = {"attention": (), "attention_order": torch.zeros(0, dtype=torch.long)}
    return {**nothing, "subtree_end": torch.from_numpy(end)}


def row_length(rows: Sequence[PackedRow], attention: Attention) -> int:
    """L, to which rows are padded: the longest, or the next whole tile of FlexAttention.

    It is compiled for lengths, so there should be few.
    """
    longest = max(len(row.symbols) for row in rows)
    return longest if attention == Attention.blocks else longest + -longest % FLEX_TILE


def attention_blocks(
    rows: Sequence[PackedRow], *, length: int
) -> tuple[tuple[AttentionBlocks, ...], torch.Tensor]:
    """The blocks of a batch of packed rows.

    Args:
        rows: prefix trees in preorder.
        length: L, to which the rows are padded.

    Returns:
        The blocks in groups of like size, and [B * L]: where each token's output stands in the
        groups' concatenated outputs (0 for padding, whose output nobody reads).
    """
    blocks = _of_rows(rows, length)
    order = np.zeros(len(rows) * length, dtype=np.int64)
    groups = []
    done = 0
    for members in _grouped(blocks):
        group = _padded(members, chains=_chains(members), key_multiple=KEY_MULTIPLE)
        for number, one in enumerate(members):
            order[one.query] = done + number * group.query.shape[1] + np.arange(len(one.query))
        done += group.query.numel()
        groups.append(group)
    return tuple(groups), torch.from_numpy(order)


def contexts(
    rows: Sequence[PackedRow], last: Sequence[int], *, length: int, steps: int
) -> tuple[AttentionBlocks, ...]:
    """What follows some prompts attends to: their own tokens, and those of no other prompt.

    Args:
        rows: prefix trees in preorder.
        last: flat index of the last token of each prompt.
        length: L, to which the rows are padded.
        steps: tokens of the longest answer.

    Returns:
        Blocks whose queries are the numbers of the prompts; prompts in one small subtree share one,
        so that the keys of a shared prefix are there once for all of them. In a block each query is
        computed with the keys of all answers, so few share one where answers are long.
    """
    ending: dict[int, list[int]] = {}
    for number, place in enumerate(last):
        ending.setdefault(int(place), []).append(number)
    blocks = []
    for one in _of_rows(rows, length):
        places = enumerate(one.query.tolist())
        ends = [(row, number) for row, at in places for number in ending.get(at, ())]
        if ends:
            sees = one.sees()
            most = max(1, 2 * len(one.key) // steps)  # half of the steps' keys are there on average
            for first in range(0, len(ends), most):
                chosen, numbers = map(np.array, zip(*ends[first : first + most], strict=True))
                allowed = sees[chosen]
                seen = allowed.any(axis=0)
                blocks.append(_Context(numbers, one.key[seen], allowed[:, seen]))
    return tuple(_padded(members) for members in _grouped(blocks))


def _of_rows(rows: Sequence[PackedRow], length: int) -> list[_Block]:
    """The blocks of all rows, with flat indices."""
    return [
        _Block(*(part + number * length for part in block))
        for number, row in enumerate(rows)
        for block in _cut(row)
    ]


def _cut(row: PackedRow) -> Iterator[_Block]:
    end = row.subtree_end
    waiting: list[tuple[int, tuple[np.ndarray, ...]]] = []  # root of a subtree, its ancestors
    root = 0
    while root < len(end):
        waiting.append((root, ()))
        root = int(end[root])
    while waiting:
        start, ancestors = waiting.pop()
        stop = int(end[start])
        chain = start + 1
        while chain < stop and end[chain] == stop:
            chain += 1
        if stop - start > SMALL_SUBTREE and chain < stop:
            own = np.arange(start, chain)
            child = chain
            while child < stop:
                waiting.append((child, (*ancestors, own)))
                child = int(end[child])
        else:
            own = np.arange(start, stop)
        yield _Block(own, np.concatenate([*ancestors, own]), end[own])


def _grouped(blocks: Sequence[_Sized]) -> Iterator[list[_Sized]]:
    """Blocks of like size together, the largest first."""
    members: list[_Sized] = []
    work = widest = 0
    for block in sorted(blocks, key=_shape, reverse=True):
        queries, keys = _shape(block)
        widest = max(widest, keys)
        if members:  # the first has the most queries
            padded = len(members[0].query) * widest * (len(members) + 1)
            if padded * (1 - MOST_PADDING) > work + queries * keys:
                yield members
                members, work, widest = [], 0, keys
        members.append(block)
        work += queries * keys
    if members:
        yield members


def _padded(
    members: Sequence[_Block | _Context], *, chains: Chains | None = None, key_multiple: int = 1
) -> AttentionBlocks:
    """One group; padding repeats the first query and key, which only padding attends to."""
    queries = max(len(one.query) for one in members)
    keys = max(len(one.key) for one in members)
    keys += -keys % key_multiple
    query = np.empty((len(members), queries), dtype=np.int64)
    key = np.empty((len(members), keys), dtype=np.int64)
    for number, one in enumerate(members):
        query[number], key[number] = one.query[0], one.key[0]
        query[number, : len(one.query)] = one.query
        key[number, : len(one.key)] = one.key
    mask = None
    if chains is None:
        allowed = np.zeros((len(members), queries, keys), dtype=bool)
        for number, one in enumerate(members):
            allowed[number, : len(one.query), : len(one.key)] = one.sees()
            allowed[number, len(one.query) :, 0] = True  # softmax over an empty set would be NaN
        mask = torch.from_numpy(allowed)
    return AttentionBlocks(torch.from_numpy(query), torch.from_numpy(key), mask, chains)


def _chains(members: Sequence[_Block]) -> Chains | None:
    """One group without padding, where each block is a chain; None elsewhere."""
    if not all(one.is_chain for one in members):
        return None
    lengths = np.array([_shape(one) for one in members])
    starts = np.concatenate([[[0, 0]], lengths.cumsum(axis=0)]).astype(np.int32)
    most_queries, most_keys = lengths.max(axis=0).tolist()
    return Chains(
        query=torch.from_numpy(np.concatenate([one.query for one in members])),
        key=torch.from_numpy(np.concatenate([one.key for one in members])),
        query_start=torch.from_numpy(starts[:, 0].copy()),
        key_start=torch.from_numpy(starts[:, 1].copy()),
        most_queries=most_queries,
        most_keys=most_keys,
    )
