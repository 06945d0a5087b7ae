"""Join what was asked with what was answered, and with what is true."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from spinevl.schema.box import Box
from spinevl.schema.errors import Problems, listed, refused
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

# of one task: for each patient its predictions, those of a closed task in the order of its levels
Rows = Sequence[Sequence[Prediction]]


def with_truth(
    predictions: Sequence[Prediction], patients: Sequence[Patient], tasks: Mapping[str, Task]
) -> list[Prediction]:
    """The predictions of ``tasks``, each with its true label or box where that is known.

    Raises:
        UserError: a box in a slice that the true boxes do not have.
    """
    people = {patient.id: patient for patient in patients}
    return [
        one.beside(_truth(one, people[one.id], tasks[one.task])) if one.id in people else one
        for one in predictions
        if one.task in tasks
    ]


def _truth(one: Prediction, patient: Patient, task: Task) -> int | Box | None:
    if task.closed:
        return patient.label(task.name, task.objects.index(one.object))
    if patient.boxes is None:
        return None
    boxes = patient.boxes[one.object]
    if one.slices[0] not in boxes:
        raise refused(
            f"predictions: patient {one.id} {task.name} {one.object}",
            f"a box in slice {', '.join(map(str, boxes))}, as the box file has them",
            f"one in slice {one.slices[0]}",
            "predict the same slices, or set the slices that the box file lists",
        )
    return boxes[one.slices[0]]


def missing_boxes(
    predictions: Sequence[Prediction], patients: Sequence[Patient], tasks: Mapping[str, Task]
) -> list[Prediction]:
    """A prediction without a box for each true box that has none.

    Asked is every vertebra of a patient with true boxes, in each slice that any prediction of the
    task lies in.

    Raises:
        UserError: a task has no predictions at all.
    """
    missing = []
    for task in tasks.values():
        if task.closed:
            continue
        boxed = {one.id: one.boxes for one in patients if one.boxes is not None}
        given = {
            (one.id, one.object, one.slices[0]) for one in predictions if one.task == task.name
        }
        if boxed and not given:
            raise refused(
                f"predictions: task {task.name}", "boxes", "none", "predict it, or leave it out"
            )
        slices = sorted({number for *_, number in given})
        missing += [
            Prediction(identity, task.name, level, (number,), None, None, "")
            for identity, boxes in boxed.items()
            for level in task.levels
            for number in slices
            if number in boxes[level] and (identity, level, number) not in given
        ]
    return missing


def join(
    predictions: Sequence[Prediction], patients: Sequence[Patient], tasks: Mapping[str, Task]
) -> dict[str, Rows]:
    """The rows of by_patient for ``patients``, with their truth."""
    joined = with_truth(predictions, patients, tasks)
    return by_patient(joined, [one.id for one in patients], tasks)


def by_patient(
    predictions: Sequence[Prediction], ids: Sequence[str], tasks: Mapping[str, Task]
) -> dict[str, Rows]:
    """Task -> patient -> predictions; those of other tasks and patients are passed over.

    Args:
        predictions: the answers; of two to the same question of a closed task the last one counts.
        ids: the patients, who must have an answer to every question of the closed tasks.
        tasks: the tasks asked.

    Returns:
        For each task a list as long as ``ids``.

    Raises:
        UserError: naming every patient whose answers to a closed task are incomplete, and the tasks
            that nobody has an answer to.
    """
    found: dict[str, dict[str, list[Prediction]]] = {
        name: {identity: [] for identity in ids} for name in tasks
    }
    for one in predictions:
        if one.task in found and one.id in found[one.task]:
            found[one.task][one.id].append(one)
    lacking: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task in tasks.values():
        for identity, given in found[task.name].items() if task.closed else ():
            answers = {one.object: one for one in given}
            if missing := [name or "the spine" for name in task.objects if name not in answers]:
                lacking[task.name, ", ".join(missing)].append(identity)
            else:
                found[task.name][identity] = [answers[name] for name in task.objects]
    problems = Problems()
    answered = {one.task for one in predictions} & set(tasks)
    never = [one.name for one in tasks.values() if one.closed and one.name not in answered]
    if never and answered:
        others = ",".join(name for name in tasks if name in answered)
        fix = f"predict them too, or score the others alone: 'task=[{others}]'"
        problems.add("predictions", f"answers to {', '.join(never)}", "none of any patient", fix)
    for (name, levels), who in lacking.items():
        if answered and name in never:
            continue
        where = f"predictions: patient {listed(who, most=3)} {name}"
        expected = f"{len(tasks[name].objects)} answers"
        problems.add(where, expected, f"none for {levels}", "predict again")
    problems.raise_any()
    return {name: list(rows.values()) for name, rows in found.items()}
