"""Draw labels whose frequencies and dependence follow the challenge's 400 training patients."""

from __future__ import annotations

import numpy as np

from spinevl.schema.record import Label

# (qd, sl) -> patients of 400
_CURVATURE_ALIGNMENT = {(1, 1): 255, (2, 1): 64, (0, 1): 59, (1, 0): 14, (2, 0): 4, (0, 0): 4}
# disc level -> patients of 400 with grade 0..3
_DISC = np.array(
    [[279, 1, 120, 0], [52, 29, 304, 15], [36, 26, 330, 8], [40, 26, 327, 7], [92, 29, 278, 1]]
)
# disc grade -> stenosis grade 0..3 at the same disc level, patients x levels
_STENOSIS_GIVEN_DISC = np.array(
    [[479, 20, 0, 0], [11, 100, 0, 0], [23, 808, 433, 95], [0, 1, 13, 17]]
)
# level (C2, C2-C3, ... C7) -> patients of 400 with stenosis grade 0..3
_STENOSIS = np.array(
    [
        [389, 9, 2, 0],
        [275, 109, 16, 0],
        [336, 49, 14, 1],
        [54, 234, 84, 28],
        [309, 65, 24, 2],
        [43, 203, 121, 33],
        [303, 74, 20, 3],
        [43, 163, 152, 42],
        [316, 67, 17, 0],
        [98, 220, 73, 9],
        [381, 15, 4, 0],
    ]
)
# correlation of the levels' severities within a patient (one common factor)
_COMMON = 0.55


def draw_labels(rng: np.random.Generator) -> dict[str, Label]:
    """One patient's qd, sl, zjppt and zyzg."""
    pairs = list(_CURVATURE_ALIGNMENT)
    weights = np.array([_CURVATURE_ALIGNMENT[pair] for pair in pairs], dtype=float)
    qd, sl = pairs[rng.choice(len(pairs), p=weights / weights.sum())]
    common = rng.standard_normal()
    disc_ranks = _ranks(rng, common, len(_DISC))
    discs = [_grade(_DISC[k], disc_ranks[k]) for k in range(len(_DISC))]
    overall = _STENOSIS[1::2].sum(axis=0) / _STENOSIS[1::2].sum()
    ranks = _ranks(rng, common, len(_STENOSIS))
    canal = []
    for level, counts in enumerate(_STENOSIS):
        weights = counts / counts.sum()
        if level % 2:
            # a level's own frequency beside what its disc says
            tilt = weights / np.maximum(overall, 1e-9)
            weights = _STENOSIS_GIVEN_DISC[discs[level // 2]] * np.sqrt(tilt)
        canal.append(_grade(weights, ranks[level]))
    return {"qd": int(qd), "sl": int(sl), "zjppt": tuple(discs), "zyzg": tuple(canal)}


def _ranks(rng: np.random.Generator, common: float, count: int) -> np.ndarray:
    """Uniform ranks [count] that share a common factor (a Gaussian copula)."""
    own = rng.standard_normal(count)
    normal = _COMMON * common + np.sqrt(1 - _COMMON**2) * own
    return np.array([_normal_cdf(value) for value in normal])


def _normal_cdf(value: float) -> float:
    from math import erf, sqrt

    return 0.5 * (1 + erf(value / sqrt(2)))


def _grade(weights: np.ndarray, rank: float) -> int:
    cumulative = np.cumsum(weights) / np.sum(weights)
    return min(int(np.searchsorted(cumulative, rank, side="right")), len(weights) - 1)
