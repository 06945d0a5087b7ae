"""Pack sequences that share prefixes into one row: every shared token stands in it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 64  # symbols that are compared at once


@dataclass(frozen=True)
class PackedRow:
    """A prefix tree of token symbols in preorder.

    Attributes:
        symbols: [L] what stands at each place.
        depth: [L] its distance from the start of its sequence, the position that the LLM sees.
        subtree_end: [L] one past the last place of its subtree.
        targets: for each sequence, [n, 2] rows of (place that predicts, symbol to predict).
    """

    symbols: np.ndarray
    depth: np.ndarray
    subtree_end: np.ndarray
    targets: tuple[np.ndarray, ...]


def pack(
    sequences: Sequence[Sequence[int]], learned: Sequence[Sequence[tuple[int, int]]]
) -> PackedRow:
    """Pack sequences into one prefix tree.

    The last symbol of a sequence is only ever predicted, so it takes no place in the row.

    Args:
        sequences: symbols of each sequence, any integers.
        learned: the learned or scored spans [start, stop) of each sequence; start is 1 or more.

    Returns:
        The packed row; a place attends to its ancestors and itself.
    """
    assert all(start >= 1 for spans in learned for start, _ in spans)
    symbols: list[int] = []
    parents: list[int] = []
    children: list[dict[int, int]] = []
    roots: dict[int, int] = {}
    paths: list[list[int]] = []
    before: Sequence[int] = ()
    path: list[int] = []
    for sequence in sequences:
        # a question's options share most tokens: begin where the last path is left
        own = sequence[:-1]
        path = path[: shared(before, own)]
        before = own
        parent = path[-1] if path else -1
        level = children[parent] if path else roots
        for symbol in own[len(path) :]:
            node = level.get(symbol)
            if node is None:
                node = level[symbol] = len(symbols)
                symbols.append(symbol)
                parents.append(parent)
                children.append({})
            path.append(node)
            level, parent = children[node], node
        paths.append(path)
    order, subtree_end, depth = _preorder(roots, children)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    targets = tuple(
        np.array(
            [
                (place[path[i - 1]], sequence[i])
                for start, stop in spans
                for i in range(start, stop)
            ],
            dtype=np.int64,
        ).reshape(-1, 2)
        for sequence, path, spans in zip(sequences, paths, learned, strict=True)
    )
    return PackedRow(np.array(symbols, dtype=np.int64)[order], depth, subtree_end, targets)


def shared(one: Sequence[int], other: Sequence[int], *, start: int = 0) -> int:
    """The first place where two lists or two tuples differ, or one ends.

    Args:
        one, other: the sequences.
        start: they are known to be alike before it.
    """
    end = min(len(one), len(other))
    while start < end and one[start : start + _CHUNK] == other[start : start + _CHUNK]:
        start += _CHUNK
    while start < end and one[start] == other[start]:
        start += 1
    return min(start, end)


def join(rows: Sequence[PackedRow]) -> PackedRow:
    """Rows one behind the other as one row, a forest: no token of one attends to another."""
    starts = np.cumsum([0, *(len(row.symbols) for row in rows)])[:-1].tolist()
    return PackedRow(
        np.concatenate([row.symbols for row in rows]),
        np.concatenate([row.depth for row in rows]),
        np.concatenate([row.subtree_end + at for row, at in zip(rows, starts, strict=True)]),
        tuple(
            target + np.array([at, 0])
            for row, at in zip(rows, starts, strict=True)
            for target in row.targets
        ),
    )


def _preorder(
    roots: dict[int, int], children: list[dict[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes in preorder, and for each place one past its subtree's end and its depth."""
    order: list[int] = []
    depth: list[int] = []
    end = np.zeros(len(children), dtype=np.int64)
    stack = [(node, 0) for node in reversed(roots.values())]
    while stack:
        node, level = stack.pop()
        order.append(node)
        depth.append(level)
        stack.extend((child, level + 1) for child in reversed(children[node].values()))
    open_places: list[int] = []
    for place, level in enumerate(depth):
        while open_places and depth[open_places[-1]] >= level:
            end[open_places.pop()] = place
        open_places.append(place)
    end[open_places] = len(depth)
    return np.array(order, dtype=np.int64), end, np.array(depth, dtype=np.int64)
