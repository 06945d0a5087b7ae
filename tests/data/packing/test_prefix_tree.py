"""The prefix tree against a plain reading of every sequence."""

from __future__ import annotations

import numpy as np

from spinevl.data.packing.prefix_tree import pack


def ancestors(row, place: int) -> list[int]:
    """The symbols that a place sees, in order, by the mask's definition."""
    return [int(row.symbols[j]) for j in range(len(row.symbols)) if j <= place < row.subtree_end[j]]


def test_every_target_sees_exactly_its_own_prefix() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sequences = [
            tuple(int(v) for v in rng.integers(0, 3, rng.integers(2, 9))) for _ in range(6)
        ]
        starts = [int(rng.integers(1, len(sequence))) for sequence in sequences]
        spans = [[(a, len(s))] for a, s in zip(starts, sequences, strict=True)]
        row = pack(sequences, spans)
        for sequence, start, targets in zip(sequences, starts, row.targets, strict=True):
            assert [int(t) for t in targets[:, 1]] == list(sequence[start:])
            for k, place in enumerate(targets[:, 0]):
                assert ancestors(row, int(place)) == list(sequence[: start + k])
                assert row.depth[place] == start + k - 1


def test_shared_prefixes_stand_once() -> None:
    row = pack([(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6, 7)], [[(3, 4)]] * 3)
    assert row.symbols.tolist() == [1, 2, 3, 6]
    assert row.subtree_end.tolist() == [4, 4, 3, 4]
    assert [targets.tolist() for targets in row.targets] == [[[2, 4]], [[2, 5]], [[3, 7]]]


def test_runs_of_symbols_are_laid_out_as_the_tree_of_single_ones() -> None:
    rng = np.random.default_rng(1)
    for trial in range(200):
        kinds = int(rng.integers(1, 4))
        start = tuple(range(10, 10 + 70 * (trial % 3)))  # more and fewer than are compared at once
        sequences = [
            start + tuple(int(v) for v in rng.integers(0, kinds, rng.integers(2, 12)))
            for _ in range(rng.integers(1, 9))
        ]
        row = pack(sequences, [[(1, 2), (1, len(one))] for one in sequences])
        symbols, depth, end, places = one_by_one(sequences)
        assert row.symbols.tolist() == symbols
        assert row.depth.tolist() == depth
        assert row.subtree_end.tolist() == end
        for sequence, targets, path in zip(sequences, row.targets, places, strict=True):
            learned = [1, *range(1, len(sequence))]
            assert targets.tolist() == [[path[i - 1], sequence[i]] for i in learned]


def one_by_one(sequences):
    """Symbols, depths, subtree ends and each sequence's places of a tree of single symbols."""
    tree: dict = {}
    for sequence in sequences:
        level = tree
        for symbol in sequence[:-1]:
            level = level.setdefault(symbol, {})
    symbols: list[int] = []
    depth: list[int] = []
    end: list[int] = []
    place_of: dict[tuple[int, ...], int] = {}

    def visit(level: dict, path: tuple[int, ...]) -> None:
        for symbol, below in level.items():
            place = len(symbols)
            place_of[(*path, symbol)] = place
            symbols.append(symbol)
            depth.append(len(path))
            end.append(0)
            visit(below, (*path, symbol))
            end[place] = len(symbols)

    visit(tree, ())
    places = [[place_of[one[: i + 1]] for i in range(len(one) - 1)] for one in sequences]
    return symbols, depth, end, places
