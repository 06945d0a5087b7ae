"""Iterative stratification (Sechidis et al. 2011, ECML PKDD, LNCS 6913)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratify(indicators: np.ndarray, *, shares: Sequence[float], seed: int) -> np.ndarray:
    """Deal examples to folds so that every label stands in each fold in the fold's share.

    The label with the fewest examples left is dealt first, each example to the fold that lacks the
    label most. The draws are those of ``iterative-stratification`` 0.1.9, so that seeds keep their
    splits; that package loads scikit-learn, which takes longer than building 28,800 records.

    Args:
        indicators: [examples, labels], truthy where an example has a label.
        shares: of each fold, summing to 1.
        seed: decides the order of examples and breaks ties.

    Returns:
        The fold of each example, int [examples].
    """
    rng = np.random.RandomState(seed)
    order = np.arange(len(indicators))
    rng.shuffle(order)
    has = np.asarray(indicators, dtype=bool)[order]
    share = np.asarray(shares)
    wanted = share * len(has)  # examples that each fold lacks             [folds]
    wanted_of = np.outer(share, has.sum(axis=0))  # with each label        [folds, labels]
    fold = np.zeros(len(has), dtype=int)
    left = np.ones(len(has), dtype=bool)
    while left.any():
        remaining = has[left].sum(axis=0)
        if not remaining.any():  # only examples without a label are left
            for example in np.flatnonzero(left):
                fold[example] = _pick(np.flatnonzero(wanted == wanted.max()), rng)
                wanted[fold[example]] -= 1
            break
        rarest = _pick(np.flatnonzero(remaining == remaining[remaining > 0].min()), rng)
        for example in np.flatnonzero(has[:, rarest] & left):
            lack = wanted_of[:, rarest]
            candidates = np.flatnonzero(lack == lack.max())
            candidates = candidates[wanted[candidates] == wanted[candidates].max()]
            chosen = _pick(candidates, rng)
            fold[example] = chosen
            left[example] = False
            wanted_of[chosen, has[example]] -= 1
            wanted[chosen] -= 1
    return fold[np.argsort(order)]


def _pick(candidates: np.ndarray, rng: np.random.RandomState) -> int:
    """The only candidate, or one at random."""
    return int(candidates[rng.choice(len(candidates)) if len(candidates) > 1 else 0])
