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
    roots: _Branches = {}
    for sequence in sequences:
        _insert(roots, sequence[:-1])
    runs = _preorder(roots)
    empty = np.zeros(0, dtype=np.int64)
    lengths = [run.stop - run.start for run in runs]
    starts = np.array([run.start for run in runs], dtype=np.int64)
    places = np.array([run.place for run in runs], dtype=np.int64)
    ends = np.array([run.end for run in runs], dtype=np.int64)
    symbols = [np.array(run.sequence[run.start : run.stop], dtype=np.int64) for run in runs]
    return PackedRow(
        symbols=np.concatenate([empty, *symbols]),
        depth=np.arange(sum(lengths)) + np.repeat(starts - places, lengths),
        subtree_end=np.repeat(ends, lengths),
        targets=tuple(
            _targets(roots, sequence, spans)
            for sequence, spans in zip(sequences, learned, strict=True)
        ),
    )


@dataclass(slots=True)
class _Run:
    """Places in a chain, without a branch among them: a node of the tree as it is built.

    Attributes:
        sequence: one that it is part of.
        start, stop: which of that sequence's symbols it holds.
        branches: the runs that follow it, by their first symbol, in order of appearance.
        place, end: where it starts in preorder, and one past its subtree's last place.
    """

    sequence: Sequence[int]
    start: int
    stop: int
    branches: _Branches
    place: int = 0
    end: int = 0


_Branches = dict[int, _Run]


def _insert(branches: _Branches, sequence: Sequence[int]) -> None:
    """Add what the tree below ``branches`` lacks of a sequence."""
    at = 0
    while at < len(sequence):
        run = branches.get(sequence[at])
        if run is None:
            branches[sequence[at]] = _Run(sequence, at, len(sequence), {})
            return
        at = min(run.stop, shared(run.sequence, sequence, start=at))
        if at < min(run.stop, len(sequence)):  # it branches here
            rest = _Run(run.sequence, at, run.stop, run.branches)
            run.stop, run.branches = at, {run.sequence[at]: rest}
        branches = run.branches


def _preorder(roots: _Branches) -> list[_Run]:
    """All runs in preorder, with their places."""
    runs: list[_Run] = []
    place = 0
    stack = list(reversed(roots.values()))
    while stack:
        run = stack.pop()
        run.place = place
        place += run.stop - run.start
        runs.append(run)
        stack.extend(reversed(run.branches.values()))
    for run in reversed(runs):
        run.end = max(
            [run.place + run.stop - run.start, *(one.end for one in run.branches.values())]
        )
    return runs


def _targets(
    roots: _Branches, sequence: Sequence[int], spans: Sequence[tuple[int, int]]
) -> np.ndarray:
    """[n, 2] rows of (place that predicts, symbol to predict) of the spans of a sequence."""
    path: list[_Run] = []
    branches, at = roots, 0
    while at < len(sequence) - 1:
        path.append(branches[sequence[at]])
        branches, at = path[-1].branches, path[-1].stop
    starts = np.array([run.start for run in path], dtype=np.int64)
    ahead = np.array([run.place - run.start for run in path], dtype=np.int64)
    of_spans = [np.arange(start, stop) for start, stop in spans]
    learned = np.concatenate([np.zeros(0, dtype=np.int64), *of_spans])
    before = learned - 1
    places = before + ahead[np.searchsorted(starts, before, side="right") - 1]
    symbols = [sequence[position] for position in learned.tolist()]
    return np.stack([places, np.array(symbols, dtype=np.int64)], axis=1)


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
