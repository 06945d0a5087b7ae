"""Bootstrap over patients: a patient's questions are not independent of each other."""

from __future__ import annotations

import numpy as np

from spinevl.schema.score import Difference, Interval


def resample_patients(n_patients: int, *, n_resamples: int, seed: int) -> np.ndarray:
    """How often each patient is drawn [1 + n_resamples, n_patients]; row 0 is the sample itself."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_resamples)
    return np.concatenate([np.ones((1, n_patients)), drawn])


def interval(distribution: np.ndarray) -> Interval:
    """The 95 % percentile interval of values [1 + n_resamples], the sample itself first."""
    low, high = np.percentile(distribution[1:], [2.5, 97.5])
    return Interval(float(low), float(high))


def difference(own: np.ndarray, other: np.ndarray) -> Difference:
    """``own`` minus ``other``, two distributions over the same resamples [1 + n_resamples]."""
    delta = own - other
    return Difference(float(delta[0]), interval(delta))
