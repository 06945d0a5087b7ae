"""Loss weights: tasks as in the score, rare classes more than frequent ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from spinevl.schema.record import Record
from spinevl.schema.task import Task

ClassWeights = Literal["inverse_sqrt", "none"]


class LossWeights:
    """The loss weight of each training question; their mean over the training set is 1.

    A task's questions together weigh what the task weighs in the score, however many questions
    it asks of a patient; within a task a label weighs ``frequency ** -0.5`` (``inverse_sqrt``)
    or all the same (``none``).

    Raises:
        ValueError: the scheme's name is unknown.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tasks: Mapping[str, Task],
        *,
        class_weights: ClassWeights = "inverse_sqrt",
    ) -> None:
        if class_weights not in ("inverse_sqrt", "none"):
            raise ValueError(f"class_weights={class_weights}: expected inverse_sqrt or none")
        per_task = Counter(record.task for record in records)
        labels = Counter((record.task, record.label) for record in records)
        total = sum(tasks[name].training_weight for name in per_task)
        self._weights: dict[tuple[str, int | None], float] = {}
        for name, count in per_task.items():
            raw = {
                label: (number**-0.5 if class_weights == "inverse_sqrt" else 1.0)
                for (task, label), number in labels.items()
                if task == name
            }
            mean = sum(raw[label] * labels[name, label] for label in raw) / count
            share = tasks[name].training_weight / total * len(records) / count
            for label, weight in raw.items():
                self._weights[name, label] = share * weight / mean

    def __getitem__(self, record: Record) -> float:
        return self._weights[record.task, record.label]
