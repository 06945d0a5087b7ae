"""Baselines: answers that need no image of the patient, or no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from spinevl.schema.box import Box
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task


class Baseline(Protocol):
    """What the model is compared with."""

    @property
    def name(self) -> str:
        """Its key in ``metrics.json``."""

    @property
    def note(self) -> str:
        """What it is, in a few words for the report."""

    @property
    def upper_bound(self) -> bool:
        """Whether it knows more than a model can, so that no model is held against it."""

    def predict(self, asked: Sequence[Prediction]) -> list[Prediction]:
        """Answers to the questions of ``asked``, with the same id, task, object and slices.

        Choices and boxes of ``asked`` are the model's and must not be used. Questions that the
        baseline cannot answer are left out: it is scored only on tasks that it answers in full.
        """


class _Constant:
    """Gives every patient the same answers.

    Attributes:
        tasks: what is asked.
        labels: (task, object) -> label.
        boxes: (vertebra, slice) -> box; questions of other slices are left out.
    """

    upper_bound = False
    tasks: Mapping[str, Task]
    labels: Mapping[tuple[str, str], int]
    boxes: Mapping[tuple[str, int], Box]

    def predict(self, asked: Sequence[Prediction]) -> list[Prediction]:
        """See Baseline."""
        answers = []
        for one in asked:
            task = self.tasks[one.task]
            if task.closed:
                label = self.labels[task.name, one.object]
                text = task.choices[label]
                answers.append(replace(one, choice=label, probabilities=None, text=text))
            elif box := self.boxes.get((one.object, one.slices[0])):
                answers.append(replace(one, box=box, text=box.answer(one.object)))
        return answers


class LevelMajority(_Constant):
    """Every patient gets each level's most frequent training label, and its mean training box.

    Args:
        train: the training patients; those without boxes are left out of the mean boxes, each of
            which is that of one vertebra in one slice.
        tasks: what is asked. One that is scored by one class alone (alignment) gets that class,
            see AllMajority.
    """

    name = "level_majority"
    note = (
        "each level's most frequent training label, ties to the lower; "
        "alignment abnormal everywhere, for normal everywhere scores 0"
    )

    def __init__(self, train: Sequence[Patient], tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.labels = {
            (task.name, name): _majority(task, [patient.label(task.name, k) for patient in train])
            for task in tasks.values()
            if task.closed
            for k, name in enumerate(task.objects)
        }
        corners: dict[tuple[str, int], list[list[int]]] = {}
        for patient in train:
            for vertebra, boxes in (patient.boxes or {}).items():
                for number, box in boxes.items():
                    corners.setdefault((vertebra, number), []).append(box.as_list())
        self.boxes = {
            place: Box(*(round(sum(one) / len(found)) for one in zip(*found, strict=True)))
            for place, found in corners.items()
        }
        if self.boxes and not all(task.closed for task in tasks.values()):
            self.note += "; boxes: each vertebra's mean training box"


class AllMajority(_Constant):
    """Every question gets its task's most frequent training label over all levels.

    A task scored by one class alone (alignment) gets that class everywhere: "all abnormal" is the
    best constant answer there, "all normal" scores 0. Boxes are left out.
    """

    name = "all_majority"
    note = (
        "each task's most frequent training label; alignment abnormal everywhere, "
        "for normal everywhere scores 0"
    )

    def __init__(self, train: Sequence[Patient], tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.labels, self.boxes = {}, {}
        for task in tasks.values():
            if task.closed:
                levels = range(len(task.objects))
                label = _majority(task, [one.label(task.name, k) for one in train for k in levels])
                self.labels |= {(task.name, name): label for name in task.objects}


BASELINES: tuple[Callable[[Sequence[Patient], Mapping[str, Task]], Baseline], ...] = (
    LevelMajority,
    AllMajority,
)
"""What ``run`` and ``evaluate`` compare with, each made of the training patients and the tasks."""


@dataclass(frozen=True)
class Given:
    """Predictions that were made elsewhere, such as those for swapped images.

    Attributes:
        name, note, upper_bound: see Baseline.
        predictions: to the same questions.
    """

    name: str
    note: str
    predictions: Sequence[Prediction]
    upper_bound: bool = False

    def predict(self, asked: Sequence[Prediction]) -> list[Prediction]:
        """See Baseline."""
        return list(self.predictions)


def _majority(task: Task, labels: Sequence[int | None]) -> int:
    """The most frequent label, ties to the lower; the positive class of a task that has one."""
    if task.positive is not None:
        return task.positive
    counts = Counter(label for label in labels if label is not None)
    return min(counts, key=lambda label: (-counts[label], label))
