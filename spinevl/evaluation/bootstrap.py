"""Intervals over patients: a patient's questions are not independent of each other.

Each resample weights every patient at random: the Bayesian bootstrap of Rubin (The Annals of
Statistics 1981), which Xu et al. (The American Statistician 2020) recommend for rare classes.
Patients drawn with replacement lack a class of three patients in one resample of twenty, and the
F1 of 0 that it scores there is no property of the model. Drawing within each class is impossible,
since a patient has labels of several tasks and levels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from spinevl.schema.score import Difference
from spinevl.schema.task_score import Interval

MIN_PATIENTS = 10
"""Of fewer patients there is no interval."""


class Bootstrap:
    """Resamples of some patients.

    Args:
        n_patients: the patients.
        n_resamples: how often they are weighted anew; not at all where they are too few.
        seed: of the weights.

    Attributes:
        weights: [1 + n_resamples, n_patients], exponentially distributed; row 0 is the sample
            itself. A score is a ratio of sums, so that a row need not sum to n_patients.
    """

    def __init__(self, n_patients: int, *, n_resamples: int, seed: int) -> None:
        enough = n_patients >= MIN_PATIENTS
        shape = (1 + n_resamples * enough, n_patients)
        self.weights = np.random.default_rng(seed).standard_exponential(shape)
        self.weights[0] = 1

    def some(self, places: Sequence[int]) -> Bootstrap:
        """The same resamples of some of the patients, by their places."""
        some = copy.copy(self)
        some.weights = self.weights[:, list(places)]
        return some

    def sums(self, values: np.ndarray) -> np.ndarray:
        """[n_patients, ...] -> sums over the patients of each row of weights [1 + n, ...]."""
        summed = self.weights @ values.reshape(len(values), -1)
        return summed.reshape(-1, *values.shape[1:])


def interval(distribution: np.ndarray) -> Interval | None:
    """The 95 % percentile interval of values [1 + n_resamples], the sample itself first.

    None where there are no resamples.
    """
    if len(distribution) == 1:
        return None
    low, high = np.percentile(distribution[1:], [2.5, 97.5])
    return Interval(float(low), float(high))


def difference(own: np.ndarray, other: np.ndarray) -> Difference:
    """``own`` minus ``other``, two distributions over the same resamples [1 + n_resamples]."""
    delta = own - other
    return Difference(float(delta[0]), interval(delta))
