"""The CervAI layout, or another hospital's: label and box files, and images by patient."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from spinevl.io.image_file import load_image
from spinevl.schema.cohort import Cohort
from spinevl.schema.errors import Problem, UserError, collected
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task
from spinevl.sources.labels import Boxes, check_id, read_boxes, read_labels, read_template

__all__ = ["CervAISource", "read_boxes", "read_labels", "read_template"]

log = logging.getLogger(__name__)

MissingImages = Literal["error", "skip", "ignore"]


class CervAISource:
    """Reads a study in the CervAI layout.

    Args:
        labels, boxes: the label and box file of the training patients.
        train_images, test_images: the folders of the patients' images.
        test_labels: the submission template; without it the test patients are the folders of
            ``test_images``.
        missing_images: ``error`` refuses a patient without a needed image, ``skip`` leaves such
            patients out of train and dev and names them, ``ignore`` checks none.
        slices, sagittal, axial, side_px: how the images are numbered, named and sized, see
            StudyLayout.
    """

    drawn = None

    def __init__(
        self,
        *,
        labels: str | None = None,
        boxes: str | None = None,
        train_images: str | None = None,
        test_images: str | None = None,
        test_labels: str | None = None,
        missing_images: MissingImages = "error",
        slices: Sequence[int] = StudyLayout.slices,
        sagittal: str = StudyLayout.sagittal,
        axial: str = StudyLayout.axial,
        side_px: int | None = StudyLayout.side_px,
    ) -> None:
        if missing_images not in ("error", "skip", "ignore"):
            raise ValueError(f"missing_images={missing_images}: expected error, skip or ignore")
        self.labels = labels
        self.boxes = boxes
        self.train_images = train_images
        self.test_images = test_images
        self.test_labels = test_labels
        self.missing_images = missing_images
        self.layout = StudyLayout(tuple(slices), sagittal, axial, side_px)
        self.names_test = bool(test_images or test_labels)

    def load(
        self,
        *,
        tasks: Mapping[str, Task],
        known_tasks: Mapping[str, Task],
        sag_image: Sequence[int],
        subsets: Collection[str],
        cache_dir: Path,
        only: Collection[str] | None = None,
    ) -> Cohort:
        """See DataSource. ``only`` keeps these ids among the test patients; nothing is cached."""
        labelled = bool({"train", "dev"} & set(subsets))
        known = {**known_tasks, **tasks}
        problems: list[Problem | str] = []
        patients: tuple[Patient, ...] = ()
        test: tuple[Patient, ...] = ()
        train_root = test_root = Path()
        with collected(problems):
            patients = self._patients(tasks, known) if labelled else ()
        with collected(problems):
            train_root = _root(self.train_images, "data.train_images") if labelled else Path()
        with collected(problems):
            test = self._test(known) if "test" in subsets else ()
            test = tuple(patient for patient in test if only is None or patient.id in only)
            test_root = _root(self.test_images, "data.test_images") if test else Path()
        shown = needed_images(tasks.values(), sag_image, self.layout)
        patients = self._with_images(patients, train_root, **shown)
        test = self._with_images(test, test_root, **shown)
        skipped: set[str] = set()
        if self.missing_images != "ignore":
            with collected(problems):
                incomplete = self._image_problems(patients, train_root, "train_images")
                if self.missing_images == "skip":
                    skipped = set(incomplete)
                else:
                    problems.extend(one for some in incomplete.values() for one in some)
            with collected(problems):  # never skipped: a submission answers every test patient
                incomplete = self._image_problems(test, test_root, "test_images")
                problems.extend(one for some in incomplete.values() for one in some)
        if problems:
            raise UserError(problems)
        if skipped:
            log.warning("left out, images missing or damaged: %s", ", ".join(sorted(skipped)))
        kept = tuple(patient for patient in patients if patient.id not in skipped)
        if labelled and not kept:
            raise UserError(f"{self.train_images}: no patient has all its images")
        sources = {
            name: Path(path)
            for name, path in (
                ("labels", self.labels),
                ("boxes", self.boxes),
                ("test_labels", self.test_labels),
            )
            if path is not None
        }
        return Cohort(
            patients=kept,
            test=test,
            layout=self.layout,
            test_has_truth=False,
            synthetic=False,
            name=f"CervAI ({len(kept)} labelled, {len(test)} test patients)",
            sources=sources,
            skipped=tuple(sorted(skipped)),
        )

    def _patients(
        self, tasks: Mapping[str, Task], known: Mapping[str, Task]
    ) -> tuple[Patient, ...]:
        problems: list[Problem | str] = []
        patients: tuple[Patient, ...] = ()
        boxes: Mapping[str, Boxes] = {}
        with collected(problems):
            if self.labels is None:
                fix = "give the label file of the training patients"
                raise UserError(f"data.labels is not set: {fix}")
            patients = read_labels(self.labels, tasks=known, required=list(tasks))
        with collected(problems):
            boxed = next((task.name for task in tasks.values() if not task.closed), None)
            if boxed and self.boxes is None:
                raise UserError(f"data.boxes is not set: task {boxed} needs the box file")
            boxes = read_boxes(self.boxes, layout=self.layout) if self.boxes else {}
        if boxed and patients and boxes:
            problems += self._unmatched({patient.id for patient in patients}, set(boxes))
        if problems:
            raise UserError(problems)
        return tuple(replace(patient, boxes=boxes.get(patient.id)) for patient in patients)

    def _unmatched(self, labelled: set[str], boxed: set[str]) -> list[Problem]:
        """Patients that one of the two files lacks."""
        return [
            Problem(f"{self.boxes}: patient {one}", "boxes", "none", "add them or drop the patient")
            for one in sorted(labelled - boxed)
        ] + [
            Problem(f"{self.boxes}: patient {one}", f"an id of {self.labels}", "none", "remove it")
            for one in sorted(boxed - labelled)
        ]

    def _test(self, known: Mapping[str, Task]) -> tuple[Patient, ...]:
        if self.test_labels is not None:
            return read_template(self.test_labels, tasks=known)
        root = _root(self.test_images, "data.test_images")
        if not root.is_dir():
            raise UserError(
                Problem(str(root), "a folder of patient folders", "none", "check data.test_images")
            )
        names = (one.name for one in root.iterdir() if one.is_dir() and one.name[0] != ".")
        ids = sorted(names, key=natural_order)
        if not ids:
            raise UserError(
                Problem(
                    str(root), "{id}/sag/6.png and so on", "no patient folder", "check the path"
                )
            )
        wrong = [f"{root}: {found}" for one in ids if (found := check_id(one))]
        if wrong:
            raise UserError(wrong)
        return tuple(Patient(one) for one in ids)

    def decode(self, image: ImageRef) -> np.ndarray:
        """See DataSource; images of another size than the layout's are refused."""
        return load_image(image.path, side_px=self.layout.side_px)

    def _with_images(
        self, patients: Sequence[Patient], root: Path, *, slices: list[int], levels: list[str]
    ) -> tuple[Patient, ...]:
        return tuple(
            replace(one, images=self.layout.images(str(root), one.id, slices=slices, levels=levels))
            for one in patients
        )

    def _image_problems(
        self, patients: Sequence[Patient], root: Path, key: str
    ) -> dict[str, list[Problem | str]]:
        """Patient id -> what is wrong with the images it needs; every file is really decoded."""
        if root == Path():  # not used, or not set, which has been named already
            return {}
        if not root.is_dir():
            raise UserError(Problem(str(root), "a folder", "none", f"check data.{key}"))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda patient: self._patient_problems(patient, root), patients)
            return {
                patient.id: problems
                for patient, problems in zip(patients, found, strict=True)
                if problems
            }

    def _patient_problems(self, patient: Patient, root: Path) -> list[Problem | str]:
        if self.layout.sagittal.startswith("{id}/") and not (root / patient.id).is_dir():
            wanted = f"a folder with {len(patient.images)} images"
            fix = "add it, or see data.missing_images"
            return [Problem(str(root / patient.id), wanted, "no such folder", fix)]
        problems: list[Problem | str] = []
        for image in patient.images:
            with collected(problems):
                self.decode(image)
        return problems


def natural_order(text: str) -> list[tuple[int, str]]:
    """A sort key by which ``case-2`` comes before ``case-10``."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(one), "") if k % 2 else (-1, one) for k, one in enumerate(parts)]


def needed_images(
    tasks: Iterable[Task], sag_image: Sequence[int], layout: StudyLayout
) -> dict[str, list]:
    """The sagittal ``slices`` and axial ``levels`` that some tasks show, in the layout's order."""
    levels = dict.fromkeys(level for task in tasks if task.axial for level in task.levels)
    slices = [number for number in layout.slices if number in sag_image]
    return {"slices": slices, "levels": list(levels)}


def _root(path: str | None, key: str) -> Path:
    if path is None:
        raise UserError(f"{key} is not set: give the folder that holds {{id}}/sag and {{id}}/tra")
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - keeps links
