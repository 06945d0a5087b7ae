"""Questions of patients as examples: tasks x levels x slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from spinevl.data.prompt import render
from spinevl.schema.errors import refused
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient
from spinevl.schema.task import Task


def patient_examples(
    patients: Sequence[Patient],
    *,
    task: Task,
    template: str,
    sag_image: Sequence[int],
    separate: bool,
    with_answers: bool,
) -> list[Example]:
    """The examples of one task, in the order of its record file.

    Args:
        patients: in the order of the label file, with the images that the task shows.
        task, template: what is asked, and how.
        sag_image: sagittal slices in the order shown.
        separate: every slice on its own, all patients with the first slice first.
        with_answers: take the answers from the patients' labels or boxes; else they are unknown.

    Raises:
        UserError: boxes asked of a patient that has none.
    """
    if not task.closed:
        return list(_box_examples(patients, task, template, sag_image, with_answers))
    shown = [(number,) for number in sag_image] if separate else [tuple(sag_image)]
    return [
        example
        for slices in shown
        for example in _closed_examples(patients, task, template, slices, with_answers)
    ]


def _closed_examples(
    patients: Sequence[Patient],
    task: Task,
    template: str,
    slices: tuple[int, ...],
    with_answers: bool,
) -> Iterator[Example]:
    prompts = [
        render(template, task=task, level=level, n_sagittal=len(slices)) for level in task.objects
    ]
    for patient in patients:
        sagittal = tuple(patient.sagittal(number) for number in slices)
        for k, level in enumerate(task.objects):
            label = patient.label(task.name, k) if with_answers else None
            answer = None if label is None else task.choices[label]
            yield Example(
                key=Key(patient.id, task.name, level),
                images=(*sagittal, patient.axial(level)) if task.axial else sagittal,
                rounds=((prompts[k], answer),),
                kind="option",
                options=tuple(task.choices),
                label=label,
                truth=answer,
            )


def _box_examples(
    patients: Sequence[Patient],
    task: Task,
    template: str,
    sag_image: Sequence[int],
    with_answers: bool,
) -> Iterator[Example]:
    prompts = {
        level: render(template, task=task, level=level, n_sagittal=1) for level in task.levels
    }
    for patient in patients:
        if with_answers and patient.boxes is None:
            raise refused(
                f"patient {patient.id}", "boxes", "none", "give data.boxes, or drop the task"
            )
        for level in task.levels:
            for number in sag_image:
                box = patient.boxes[level][number] if with_answers and patient.boxes else None
                answer = None if box is None else box.answer(level)
                yield Example(
                    key=Key(patient.id, task.name, level),
                    images=(patient.sagittal(number),),
                    rounds=((prompts[level], answer),),
                    kind="box",
                    box=box,
                    truth=answer,
                )


def grouped(examples: Iterable[Example]) -> list[list[tuple[int, Example]]]:
    """(index, example) pairs: a patient's questions together, every conversation on its own."""
    groups: dict[object, list[tuple[int, Example]]] = {}
    for index, one in enumerate(examples):
        group = index if one.kind == "text" else one.key.patient
        groups.setdefault(group, []).append((index, one))
    return list(groups.values())


def swapped(examples: Sequence[Example], patients: Sequence[Patient]) -> list[Example]:
    """The same questions shown the images of the next one of ``patients``, in a circle."""
    following = dict(zip((one.id for one in patients), [*patients[1:], *patients[:1]], strict=True))
    result = []
    for example in examples:
        other = following[example.key.patient]
        images = tuple(
            other.axial(image.level) if image.level else other.sagittal(image.slice or 0)
            for image in example.images
        )
        result.append(replace(example, images=images))
    return result


def pictures(examples: Iterable[Example]) -> dict[str, list[ImageRef]]:
    """Patient -> the images shown of it, each once, sagittal ones first."""
    found: dict[str, dict[ImageRef, None]] = {}
    for one in examples:
        found.setdefault(one.key.patient, {}).update(dict.fromkeys(one.images))
    return {
        patient: sorted(images, key=lambda image: image.plane == "axial")
        for patient, images in found.items()
    }
