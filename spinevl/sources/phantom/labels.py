"""Draw the labels of a phantom patient: the marginals and the dependence of 400 real patients.

The tables below are counts over the 400 labelled patients of the CervAI challenge. A phantom
follows them, yet it is no clinical evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from spinevl.schema.patient import Label

GRADED = ("qd", "sl", "zjppt", "zyzg")

# (qd, sl) -> patients
CURVATURE_ALIGNMENT = {(1, 1): 255, (2, 1): 64, (0, 1): 59, (1, 0): 14, (2, 0): 4, (0, 0): 4}

# zjppt of C2-C3
FIRST_DISC = (279, 1, 120, 0)

# [upper disc][its label][label of the next disc]
NEXT_DISC = (
    ((52, 28, 193, 6), (0, 0, 1, 0), (0, 1, 110, 9), (0, 0, 0, 0)),
    ((27, 3, 21, 1), (2, 20, 7, 0), (7, 3, 289, 5), (0, 0, 13, 2)),
    ((20, 3, 13, 0), (3, 15, 8, 0), (16, 8, 299, 7), (1, 0, 7, 0)),
    ((32, 0, 8, 0), (12, 12, 2, 0), (48, 17, 261, 1), (0, 0, 7, 0)),
)

# [disc][its zjppt][zyzg of the same level]
DISC_STENOSIS = (
    ((266, 13, 0, 0), (0, 1, 0, 0), (9, 95, 16, 0), (0, 0, 0, 0)),
    ((49, 3, 0, 0), (1, 28, 0, 0), (4, 203, 75, 22), (0, 0, 9, 6)),
    ((34, 2, 0, 0), (5, 21, 0, 0), (4, 179, 119, 28), (0, 1, 2, 5)),
    ((40, 0, 0, 0), (1, 25, 0, 0), (2, 138, 150, 37), (0, 0, 2, 5)),
    ((90, 2, 0, 0), (4, 25, 0, 0), (4, 193, 73, 8), (0, 0, 0, 1)),
)

# [vertebra][the worse zyzg of the discs above and below][its own zyzg]
VERTEBRA_STENOSIS = (
    ((275, 0, 0, 0), (102, 7, 0, 0), (12, 2, 2, 0), (0, 0, 0, 0)),
    ((54, 0, 0, 0), (217, 15, 1, 0), (59, 19, 7, 0), (6, 15, 6, 1)),
    ((29, 0, 0, 0), (181, 10, 0, 0), (85, 34, 11, 0), (14, 21, 13, 2)),
    ((25, 0, 0, 0), (144, 5, 0, 0), (115, 37, 10, 0), (19, 32, 10, 3)),
    ((35, 0, 0, 0), (155, 7, 0, 0), (108, 38, 10, 0), (18, 22, 7, 0)),
    ((98, 0, 0, 0), (212, 7, 1, 0), (63, 7, 3, 0), (8, 1, 0, 0)),
)

# A patient with one narrow level tends to have others: shares of a patient's own factor in the
# variance behind the discs' and the vertebrae's stenosis, set so that the correlations between
# levels come out as in the 400.
_DISC_SHARE = 0.60
_NEXT_DISC_SHARE = 0.10
_VERTEBRA_SHARE = 0.92


def draw_labels(rng: np.random.Generator) -> dict[str, Label]:
    """qd, sl, zjppt and zyzg of one patient, as they would come in the real study."""
    pairs = list(CURVATURE_ALIGNMENT)
    qd, sl = pairs[_quantile(CURVATURE_ALIGNMENT.values(), rng.random())]
    worn, narrow_discs, narrow_bones = rng.standard_normal(3)
    discs = [_quantile(FIRST_DISC, _uniform(rng, worn, _NEXT_DISC_SHARE))]
    for table in NEXT_DISC:
        discs.append(_quantile(table[discs[-1]], _uniform(rng, worn, _NEXT_DISC_SHARE)))

    narrow_bones = 0.5 * narrow_discs + math.sqrt(0.75) * narrow_bones
    disc_grades = [
        _quantile(table[disc], _uniform(rng, narrow_discs, _DISC_SHARE))
        for table, disc in zip(DISC_STENOSIS, discs, strict=True)
    ]
    stenosis = []
    beside = [0, *disc_grades, 0]
    for index, table in enumerate(VERTEBRA_STENOSIS):
        worse = max(beside[index], beside[index + 1])
        stenosis.append(_quantile(table[worse], _uniform(rng, narrow_bones, _VERTEBRA_SHARE)))
        stenosis += disc_grades[index : index + 1]
    return {"qd": qd, "sl": sl, "zjppt": tuple(discs), "zyzg": tuple(stenosis)}


def _uniform(rng: np.random.Generator, factor: float, share: float) -> float:
    """A uniform number that shares a factor with the patient's other levels."""
    normal = math.sqrt(share) * factor + math.sqrt(1 - share) * rng.standard_normal()
    return 0.5 * (1.0 + math.erf(normal / math.sqrt(2.0)))


def _quantile(counts: Iterable[int], uniform: float) -> int:
    """The label below which lies the share ``uniform`` of ``counts``."""
    cumulated = np.cumsum(np.fromiter(counts, dtype=float))
    assert cumulated[-1] > 0, "a label that the 400 never had was drawn"
    return int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"))
