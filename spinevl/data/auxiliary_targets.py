"""Direct targets: what an image alone can be asked, without a prompt.

A sagittal image shows the whole spine, so it gets one head for each question of a patient; an
axial image shows its own level only, so all levels of a task share one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spinevl.schema.record import Record
from spinevl.schema.task import Task


@dataclass(frozen=True)
class AuxiliarySizes:
    """The heads of a set of tasks: name -> number of classes, in a fixed order."""

    sizes: Mapping[str, int]

    @classmethod
    def of(cls, tasks: Mapping[str, Task]) -> AuxiliarySizes:
        """The heads that the closed tasks among ``tasks`` need."""
        sizes: dict[str, int] = {}
        for task in tasks.values():
            if not task.closed:
                continue
            for name in task.objects:
                sizes[f"sagittal/{task.name}/{name}"] = len(task.choices)
            if task.axial:
                sizes[f"axial/{task.name}"] = len(task.choices)
        return cls(sizes)

    def targets(self, record: Record, task: Task) -> Iterator[tuple[str, str, int]]:
        """(image path, head name, label) of each image of a labelled closed question."""
        if record.label is None or not task.closed:
            return
        n_sagittal = len(record.images) - task.axial
        for number, path in enumerate(record.images):
            if number < n_sagittal:
                yield path, f"sagittal/{task.name}/{record.object}", record.label
            else:
                yield path, f"axial/{task.name}", record.label
