"""Iterative stratification, against the package whose draws it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit

from spinevl.data.stratify import stratify


def _labels(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 400))
    frequency = rng.uniform(0.01, 0.9, size=int(rng.integers(2, 25)))
    rows = (rng.random((n, len(frequency))) < frequency).astype(int)
    rows[0, :2] = rows[1, :2] = 1  # the package wants some examples with several labels
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_two_sides_are_those_of_the_package(seed: int) -> None:
    rows = _labels(seed)
    n_train = max(1, round(0.8 * len(rows)))
    n_dev = len(rows) - n_train
    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1, train_size=n_train, test_size=n_dev, random_state=seed
    )
    train, dev = next(splitter.split(np.zeros(len(rows)), rows))
    ours = stratify(rows, shares=[n_train / len(rows), n_dev / len(rows)], seed=seed)
    assert np.flatnonzero(ours == 0).tolist() == train.tolist()
    assert np.flatnonzero(ours == 1).tolist() == dev.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_folds_are_those_of_the_package(seed: int) -> None:
    rows = _labels(seed)
    folds = MultilabelStratifiedKFold(n_splits=5, shuffle=True, random_state=seed)
    ours = stratify(rows, shares=[1 / 5] * 5, seed=seed)
    for number, (_, dev) in enumerate(folds.split(np.zeros(len(rows)), rows)):
        assert np.flatnonzero(ours == number).tolist() == dev.tolist()
