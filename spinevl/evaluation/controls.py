"""Controls: what answers without looking at a patient's own pixels are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from spinevl.evaluation.answers import Answers, truth_of
from spinevl.schema.record import Patient
from spinevl.schema.task import Task


def level_majority(
    train: Sequence[Patient], ids: Sequence[str], tasks: Mapping[str, Task]
) -> Answers:
    """Every patient gets each level's most frequent training label; ties go to the lower label.

    A task scored by one class alone (alignment) gets that class, see all_majority.
    """
    truth = truth_of(train, tasks)
    answer = {
        task.name: (task.positive,)
        if task.positive is not None
        else tuple(
            _majority([truth[one][task.name][k] for one in truth]) for k in range(len(task.objects))
        )
        for task in tasks.values()
        if task.closed
    }
    return dict.fromkeys(ids, answer)


def all_majority(
    train: Sequence[Patient], ids: Sequence[str], tasks: Mapping[str, Task]
) -> Answers:
    """Every question gets its task's most frequent training label over all levels.

    A task scored by one class alone (alignment) gets that class everywhere: "all abnormal" is
    the best constant answer there, "all normal" scores 0.
    """
    truth = truth_of(train, tasks)
    answer = {}
    for task in tasks.values():
        if not task.closed:
            continue
        label = task.positive
        if label is None:
            label = _majority([one for labels in truth.values() for one in labels[task.name]])
        answer[task.name] = (label,) * len(task.objects)
    return dict.fromkeys(ids, answer)


def _majority(labels: Sequence[int | None]) -> int:
    counts = Counter(label for label in labels if label is not None)
    return min(counts, key=lambda label: (-counts[label], label))
