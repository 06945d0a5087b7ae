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
