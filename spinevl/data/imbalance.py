"""Loss weights against the imbalance of tasks and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from spinevl.config.options import ClassWeights
from spinevl.schema.example import Example
from spinevl.schema.task import Task


def weighted(
    examples: Sequence[Example],
    tasks: Mapping[str, Task],
    *,
    class_weights: str = ClassWeights.inverse_sqrt,
) -> list[Example]:
    """Training examples with their loss weights, whose mean is 1.

    A task's questions together weigh what the task weighs in the score, however many questions
    it asks of a patient; within a task a label weighs ``frequency ** -0.5`` (``inverse_sqrt``)
    or all the same (``none``).

    Raises:
        ValueError: the scheme's name is unknown.
    """
    if class_weights not in ClassWeights.__members__:
        raise ValueError(f"class_weights={class_weights}: expected {' or '.join(ClassWeights)}")
    per_task = Counter(one.key.task for one in examples)
    labels = Counter((one.key.task, one.label) for one in examples)
    total = sum(tasks[name].training_weight for name in per_task)
    weights: dict[tuple[str, int | None], float] = {}
    for name, count in per_task.items():
        raw = {
            label: (number**-0.5 if class_weights == ClassWeights.inverse_sqrt else 1.0)
            for (task, label), number in labels.items()
            if task == name
        }
        mean = sum(raw[label] * labels[name, label] for label in raw) / count
        share = tasks[name].training_weight / total * len(examples) / count
        for label, weight in raw.items():
            weights[name, label] = share * weight / mean
    return [replace(one, weight=weights[one.key.task, one.label]) for one in examples]
