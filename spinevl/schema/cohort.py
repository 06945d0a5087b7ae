"""The patients of a study, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

if TYPE_CHECKING:
    import numpy as np

    from spinevl.schema.image_ref import ImageRef
    from spinevl.schema.task import Task


@dataclass(frozen=True)
class Cohort:
    """The patients of one study, wherever they come from.

    Attributes:
        patients: the labelled patients (train and dev) in the order of the label file.
        test: the test patients in the order of the submission template.
        layout: how the images' files are named.
        test_has_truth: whether the labels of ``test`` are truth and may be scored.
        synthetic: whether the images are rendered; such a cohort is no clinical evidence.
        name: what reports call it.
        latents: a side file with the geometry behind a synthetic cohort; training never opens it.
        sources: the input files by role, for manifests and fingerprints.
        images_checked: whether every image has been decoded; training decodes them else.
        skipped: ids left out because ``missing_images=skip`` was asked for.
    """

    patients: tuple[Patient, ...]
    test: tuple[Patient, ...]
    layout: StudyLayout
    test_has_truth: bool
    synthetic: bool
    name: str
    latents: Path | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    images_checked: bool = True
    skipped: tuple[str, ...] = ()


Watch = Callable[["ImageRef", "np.ndarray"], None]


@dataclass(frozen=True)
class StudyRequest:
    """What a data source is asked for.

    Attributes:
        tasks: the tasks selected; their labels are required.
        known_tasks: tasks whose labels are checked where a record has them.
        sag_image: the sagittal slices shown.
        subsets: which of ``train``, ``dev``, ``test`` will be used.
        make_cache: makes the folder of ``cache_dir``; a source that keeps nothing needs none.
        watch: is shown each image that is decoded to check it, possibly by several threads.
    """

    tasks: Mapping[str, Task]
    known_tasks: Mapping[str, Task]
    sag_image: Sequence[int]
    subsets: Collection[str]
    make_cache: Callable[[], Path]
    watch: Watch | None = None

    @property
    def cache_dir(self) -> Path:
        """Where a source may keep what it makes, shared between jobs.

        Raises:
            UserError: there is no such folder and it cannot be made.
        """
        return self.make_cache()

    @property
    def labelled(self) -> bool:
        """Whether patients with labels will be used."""
        return bool({"train", "dev"} & set(self.subsets))

    @property
    def levels(self) -> list[str]:
        """The spine levels whose axial images are shown."""
        shown = (level for task in self.tasks.values() if task.axial for level in task.levels)
        return list(dict.fromkeys(shown))


class DataSource(Protocol):
    """Where a cohort comes from: what the config group ``data`` builds."""

    layout: StudyLayout
    names_test: bool
    """Whether the source names test patients."""
    drawn: int | None
    """How many training patients the source draws itself; None where it reads them."""

    def load(self, request: StudyRequest) -> Cohort:
        """The cohort, its files and images checked. Raises UserError with every problem found."""

    def decode(self, image: ImageRef) -> np.ndarray:
        """The pixels of one image, uint8 [H, W]. Raises UserError where it can't be decoded."""
