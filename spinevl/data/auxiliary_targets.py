"""Auxiliary targets: what an image alone can be asked, without a prompt.

A sagittal image shows the whole spine, so it gets one head for each question of a patient; an
axial image shows its own level only, so all levels of a task share one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.task import Task


def head_sizes(tasks: Mapping[str, Task]) -> dict[str, int]:
    """Head name -> number of classes, for the closed ones among ``tasks``, in a fixed order."""
    sizes: dict[str, int] = {}
    for task in tasks.values():
        if not task.closed:
            continue
        for level in task.objects:
            sizes[f"sagittal/{task.name}/{level}"] = len(task.choices)
        if task.axial:
            sizes[f"axial/{task.name}"] = len(task.choices)
    return sizes


def head_targets(example: Example) -> Iterator[tuple[ImageRef, str, int]]:
    """(image, head name, label) of each image of a labelled closed question."""
    if example.label is None:
        return
    key = example.key
    for image in example.images:
        if image.plane == "sagittal":
            yield image, f"sagittal/{key.task}/{key.level}", example.label
        elif image.plane == "axial":
            yield image, f"axial/{key.task}", example.label
