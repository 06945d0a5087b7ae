"""Drawn labels against the counts of the 400 real patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from spinevl.sources.phantom.labels import (
    CURVATURE_ALIGNMENT,
    DISC_STENOSIS,
    FIRST_DISC,
    NEXT_DISC,
    VERTEBRA_STENOSIS,
    draw_labels,
)

DRAWN = [draw_labels(np.random.default_rng(k)) for k in range(2000)]


def test_frequencies_are_those_of_the_study() -> None:
    expected = {
        "qd": (63, 269, 68),
        "sl": (22, 378),
        "zjppt": (499, 111, 1359, 31),
        "zyzg": (2547, 1208, 527, 118),
    }
    for task, counts in expected.items():
        values = np.array([one[task] for one in DRAWN]).ravel()
        found = np.bincount(values, minlength=len(counts)) / len(values)
        share = np.array(counts) / sum(counts)
        # four standard errors of 2,000 patients, levels of one patient taken as one
        assert np.all(np.abs(found - share) < 4 * np.sqrt(share * (1 - share) / 2000)), task


def test_tables_count_the_real_patients(shared: Path) -> None:
    real = json.loads((shared / "cervai/labels_train.json").read_text(encoding="utf-8"))
    pairs: dict[tuple[int, int], int] = {}
    first = np.zeros(4, int)
    following, disc, bone = np.zeros((4, 4, 4), int), np.zeros((5, 4, 4), int), np.zeros((6, 4, 4))
    for one in real:
        pairs[one["qd"], one["sl"]] = pairs.get((one["qd"], one["sl"]), 0) + 1
        grades, canal = one["zjppt"], one["zyzg"]
        first[grades[0]] += 1
        for k in range(4):
            following[k, grades[k], grades[k + 1]] += 1
        for k in range(5):
            disc[k, grades[k], canal[2 * k + 1]] += 1
        for k in range(6):
            beside = [canal[j] for j in (2 * k - 1, 2 * k + 1) if 0 <= j < 11]
            bone[k, max(beside), canal[2 * k]] += 1
    assert pairs == CURVATURE_ALIGNMENT
    assert np.array_equal(first, FIRST_DISC)
    assert np.array_equal(following, NEXT_DISC)
    assert np.array_equal(disc, DISC_STENOSIS)
    assert np.array_equal(bone, VERTEBRA_STENOSIS)


def test_levels_of_one_patient_go_together() -> None:
    canal = np.array([one["zyzg"] for one in DRAWN])
    between = np.corrcoef(canal.T)
    # 0.8 between neighbouring vertebrae and about 0.5 between neighbouring discs in the 400
    assert 0.65 < between[4, 6] < 0.9
    assert 0.35 < between[5, 7] < 0.65
    discs = np.corrcoef(np.array([one["zjppt"] for one in DRAWN]).T)
    assert 0.45 < discs[1, 2] < 0.75
