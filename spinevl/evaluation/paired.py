"""Two trainings' scores on the same patients, whose difference has an interval over patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spinevl.evaluation.bootstrap import MIN_PATIENTS, Bootstrap, difference
from spinevl.evaluation.join import by_patient
from spinevl.evaluation.metrics import Confusion, combine, task_f1
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Difference
from spinevl.schema.task import Task


@dataclass(frozen=True, eq=False)
class Answered:
    """The answers of one training, counted by patient.

    Attributes:
        tasks: the closed tasks by name.
        ids: the patients.
        truth: task -> the true labels [patients, questions].
        counts: task -> how often they were answered with which [patients, truth, answer].
    """

    tasks: Mapping[str, Task]
    ids: tuple[str, ...]
    truth: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, predictions: Sequence[Prediction], tasks: Mapping[str, Task]) -> Answered:
        """Of predictions with their truth.

        Raises:
            UserError: the truth is unknown, or a patient lacks an answer.
        """
        closed = {name: task for name, task in tasks.items() if task.closed}
        given = [one for one in predictions if one.task in closed]
        if not given or any(one.truth is None for one in given):
            raise UserError("the truth of its answers is unknown")
        ids = sorted({one.id for one in given})
        rows = by_patient(given, ids, closed)
        found = {name: Confusion.of(rows[name], task) for name, task in closed.items()}
        truth = {name: one.truth for name, one in found.items()}
        return cls(closed, tuple(ids), truth, {k: one.by_patient() for k, one in found.items()})

    @cached_property
    def score(self) -> float:
        """The score of all patients."""
        sample = Bootstrap(len(self.ids), n_resamples=0, seed=0)
        return float(self.resampled(sample, range(len(self.ids)))[0])

    def resampled(self, bootstrap: Bootstrap, places: Sequence[int]) -> np.ndarray:
        """The score of the sample and of each resample [1 + n_resamples].

        Args:
            bootstrap: of these patients and perhaps others.
            places: of these patients among them.
        """
        some = bootstrap.some(places)
        values = {
            name: task_f1(some.sums(self.counts[name]), task) for name, task in self.tasks.items()
        }
        total: np.ndarray
        total, _ = combine(values, self.tasks)
        return total

    def unlike(self, other: Answered) -> str | None:
        """Why the scores of the two do not compare; None where they do."""
        if _scored_by(self.tasks) != _scored_by(other.tasks):
            return "other tasks"
        if self.ids != other.ids:
            return "other patients"
        same = all(np.array_equal(one, other.truth[name]) for name, one in self.truth.items())
        return None if same else "other true labels"


class PairedBootstrap:
    """The same resamples of patients for every training.

    A patient has one weight in a resample wherever their answers count: in each training with
    another seed, and in the fold whose dev patient they are.

    Args:
        ids: all patients.
        n_resamples, seed: of the weights.
    """

    def __init__(self, ids: Iterable[str], *, n_resamples: int = 2000, seed: int = 0) -> None:
        self._place = {one: place for place, one in enumerate(sorted(set(ids)))}
        self._bootstrap = Bootstrap(len(self._place), n_resamples=n_resamples, seed=seed)

    def scores(self, answered: Answered) -> np.ndarray:
        """The score of the sample and of each resample [1 + n_resamples]."""
        places = [self._place[one] for one in answered.ids]
        return answered.resampled(self._bootstrap, places)


def paired_difference(
    own: Sequence[np.ndarray], other: Sequence[np.ndarray], *, n_patients: int
) -> Difference:
    """The mean difference over repeats of two trainings.

    Args:
        own, other: PairedBootstrap.scores of each repeat, in the same order.
        n_patients: of all repeats; there is no interval of fewer than MIN_PATIENTS.
    """
    means = np.mean(own, axis=0), np.mean(other, axis=0)
    few = n_patients < MIN_PATIENTS
    return difference(*(one[:1] if few else one for one in means))


def _scored_by(tasks: Mapping[str, Task]) -> dict[str, tuple[object, ...]]:
    """What of the tasks a score depends on."""
    return {
        name: (one.objects, len(one.choices), one.metric, one.positive, one.weight)
        for name, one in tasks.items()
    }
