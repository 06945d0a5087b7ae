"""Controls: what answers without looking at a patient's own pixels are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from spinevl.evaluation.join import Answers, truth_of
from spinevl.schema.box import Box
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import SAGITTAL_SLICES, Task


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


def mean_boxes(
    train: Sequence[Patient], asked: Sequence[Prediction], task: Task
) -> list[Prediction]:
    """The level majority of boxes: each vertebra's mean training box in the slice asked.

    Args:
        train: patients with boxes; those without are not counted.
        asked: predictions of ``task``, whose questions are answered.
        task: a task whose answers are boxes.

    Returns:
        One prediction for each of ``asked``; empty where no training patient has boxes.
    """
    boxes = [patient.boxes for patient in train if patient.boxes is not None]
    if not boxes:
        return []
    means: dict[tuple[str, int], Box] = {}
    for vertebra in task.objects:
        for number in SAGITTAL_SLICES:
            corners = [one[vertebra][number].as_list() for one in boxes]
            mean = (round(sum(values) / len(boxes)) for values in zip(*corners, strict=True))
            means[vertebra, number] = Box(*mean)
    result = []
    for one in asked:
        if one.task == task.name:
            box = means[one.object, one.slices[0]]
            result.append(replace(one, box=box, text=box.answer(one.object)))
    return result


def _majority(labels: Sequence[int | None]) -> int:
    counts = Counter(label for label in labels if label is not None)
    return min(counts, key=lambda label: (-counts[label], label))
