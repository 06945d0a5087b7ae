"""The CervAI layout, or another hospital's: label and box files, and images by patient."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from spinevl.config.keys import Positive
from spinevl.io.files import expanded
from spinevl.io.image_file import load_image
from spinevl.schema.asked import add_unmatched, compare
from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import (
    Problem,
    Problems,
    UserError,
    as_lines,
    counted,
    escaped,
    listed,
    refused,
)
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient, composed
from spinevl.schema.study_layout import AUTO, Auto, StudyLayout
from spinevl.sources.labels import (
    Boxes,
    check_id,
    read_boxes,
    read_labels,
    read_template,
    warn_without_boxes,
)
from spinevl.sources.patient_folders import patients_below
from spinevl.sources.spelling import spelling_in, two_spellings

log = logging.getLogger(__name__)

MissingImages = Literal["error", "skip", "ignore"]


@dataclass(kw_only=True)
class CervAISource:
    """Reads a study in the CervAI layout.

    Args:
        labels, boxes: the label and box file of the training patients.
        train_images, test_images: the folders of the patients' images.
        test_labels: the submission template; without it the test patients are the folders of
            ``test_images``.
        test_truth, test_boxes: the true labels and boxes of the test patients, who are those of
            ``test_labels`` or, without it, of ``test_truth``.
        missing_images: ``error`` refuses a patient without a needed image, ``skip`` leaves such
            patients out of train and dev and names them, ``ignore`` leaves them to training,
            which decodes every image before it begins.
        slices, sagittal, axial, side_px: how the images are numbered, named and sized, see
            StudyLayout; ``auto`` is CervAI's, or that of the checkpoint that is asked.
        name: what reports and model cards call the study.
    """

    labels: str | None = None
    boxes: str | None = None
    train_images: str | None = None
    test_images: str | None = None
    test_labels: str | None = None
    test_truth: str | None = None
    test_boxes: str | None = None
    missing_images: MissingImages = "error"
    slices: Sequence[int] | Auto = AUTO
    sagittal: str = AUTO
    axial: str = AUTO
    side_px: Positive | Auto | None = AUTO
    name: str | None = None

    def __post_init__(self) -> None:
        if self.missing_images not in get_args(MissingImages):
            expected = "expected error, skip or ignore"
            raise ValueError(f"missing_images={self.missing_images}: {expected}")
        if self.name is not None and not (self.name.isprintable() and 0 < len(self.name) <= 80):
            raise ValueError(f"name={self.name!a}: expected a line of at most 80 letters")
        if self.test_boxes and not self.test_truth:
            raise ValueError("test_boxes: given without test_truth; name the test patients' labels")
        self.layout = StudyLayout.told(vars(self))
        self.names_test = bool(self.test_images or self.test_labels or self.test_truth)
        self.drawn: int | None = None

    def load(self, request: StudyRequest, *, only: Collection[str] | None = None) -> Cohort:
        """See DataSource. ``only`` keeps these ids among the test patients; nothing is cached."""
        problems = Problems()
        patients: tuple[Patient, ...] = ()
        test: tuple[Patient, ...] = ()
        if request.labelled:
            with problems.collected():
                patients = self._patients(request)
            with problems.collected():
                patients = self._with_images(patients, "train_images", request)
        if "test" in request.subsets:
            with problems.collected():
                known = self._test(request, only)
                known_ids = {one.id for one in known}
                wanted = known_ids if only is None else set(map(composed, only))
                test = tuple(one for one in known if one.id in wanted)
                for absent in sorted(wanted - known_ids):
                    where = str(self._root("test_images") / absent)
                    problems.add(where, "a patient folder", "none", "check the path")
                test = self._with_images(test, "test_images", request) if test else ()
        skipped: dict[str, Problems] = {}
        with problems.collected():
            skipped = self._unusable(patients, "train_images", request) if request.labelled else {}
            if self.missing_images == "error":
                problems.extend(one for found in skipped.values() for one in found)
        with problems.collected():  # never skipped: a submission answers every test patient
            unusable = self._unusable(test, "test_images", request) if test else {}
            for found in unusable.values():
                problems.extend(found)
        problems.raise_any()
        kept = tuple(patient for patient in patients if patient.id not in skipped)
        if request.labelled:
            self._tell_left_out(skipped)
            self._tell_unlabelled([*patients, *test])
            if not kept:
                first = next((found[0] for found in skipped.values()), "")
                raise UserError(f"{self.train_images}: no patient has all its images; {first}")
        roles = ("labels", "boxes", "test_labels", "test_truth", "test_boxes")
        named = {role: getattr(self, role) for role in roles}
        return Cohort(
            patients=kept,
            test=test,
            layout=self.layout,
            test_has_truth=bool(test and self.test_truth),
            synthetic=False,
            name=f"{self.name or 'study'} ({len(kept)} labelled, {len(test)} test patients)",
            sources={name: Path(path) for name, path in named.items() if path is not None},
            images_checked=self.missing_images != "ignore",
            skipped=tuple(sorted(skipped)),
        )

    def _tell_left_out(self, skipped: Mapping[str, Problems]) -> None:
        """Name the patients that are skipped, with what is wrong with the first image of each."""
        if not skipped:
            return
        ids = sorted(skipped, key=natural_order)
        log.warning("left out, images missing or damaged: %s", ", ".join(ids))
        reasons = []
        for one in ids:
            first, *rest = skipped[one]
            reasons.append(f"{one}: {first}" + (f" (and {len(rest)} more)" if rest else ""))
        for line in as_lines(reasons):
            log.warning("  %s", line)

    def _tell_unlabelled(self, known: Sequence[Patient]) -> None:
        """Name the patients who have images among those of the training, and no labels."""
        if self.missing_images == "ignore" or self.train_images is None:
            return
        root = self._root("train_images")
        labelled = {one.id for one in known}
        there = patients_below(root, self.layout).ids if root.is_dir() else ()
        without = sorted((one for one in there if composed(one) not in labelled), key=natural_order)
        without = [escaped(one) for one in without]
        if without:
            has, is_ = ("has", "is") if len(without) == 1 else ("have", "are")
            what = f"{has} images and no labels, and {is_} left out"
            who = counted(len(without), "patient")
            log.warning("%s: %s %s: %s", root, who, what, listed(without))

    def _patients(self, request: StudyRequest) -> tuple[Patient, ...]:
        problems = Problems()
        boxed = [task.name for task in request.tasks.values() if not task.closed]
        if self.labels is None:
            problems.append("data.labels is not set: give the label file of the training patients")
        if boxed and self.boxes is None:
            problems.append(f"data.boxes is not set: task {boxed[0]} needs the box file")
        found: tuple[Patient, ...] = ()
        with problems.collected():
            if self.labels is not None:
                found = self._labelled(self.labels, self.boxes, request)
        problems.raise_any()
        return found

    def _labelled(
        self, labels: str, box_file: str | None, request: StudyRequest, *, all_boxed: bool = True
    ) -> tuple[Patient, ...]:
        """The patients of a label file, with the boxes of the box file that belongs to it.

        Unless ``all_boxed``, patients may lack boxes, and it is told how many do.
        """
        problems = Problems()
        patients: tuple[Patient, ...] = ()
        boxes: Mapping[str, Boxes] = {}
        with problems.collected():
            known = {**request.known_tasks, **request.tasks}
            patients = read_labels(
                labels, tasks=known, required=list(request.tasks), may_leave_out=True
            )
        with problems.collected():
            boxes = read_boxes(box_file, layout=self.layout) if box_file else {}
        if patients and boxes and any(not task.closed for task in request.tasks.values()):
            absent, surplus = compare((one.id for one in patients), boxes)
            if not all_boxed:
                warn_without_boxes(box_file, absent, n_patients=len(patients))
                absent = []
            add_unmatched(
                *(problems, str(box_file), absent, surplus),
                n_asked=len(patients),
                each="boxes",
                only=f"ids of {labels}",
                fixes=("add them or drop the patient", "remove it"),
            )
        problems.raise_any()
        return tuple(replace(patient, boxes=boxes.get(patient.id)) for patient in patients)

    def _with_truth(
        self, asked: Sequence[Patient] | None, request: StudyRequest
    ) -> tuple[Patient, ...]:
        """The test patients in the order of the template, if there is one, with their truth."""
        assert self.test_truth is not None
        known = self._labelled(self.test_truth, self.test_boxes, request, all_boxed=False)
        values = [np.ravel(one.labels[name]) for one in known for name in one.labels]
        if len(known) > 1 and values and not np.concatenate(values).any():
            labels = {one.id: one.labels for one in known}
            if asked is not None and labels == {one.id: one.labels for one in asked}:
                raise refused(
                    self.test_truth,
                    "true labels",
                    f"0 everywhere, as in {self.test_labels}",
                    "give the true ones; leave out data.test_labels if these are",
                )
            log.warning("%s: 0 everywhere; take care that it is no template", self.test_truth)
        if asked is None:
            return known
        problems = Problems()
        absent, surplus = compare((one.id for one in asked), (one.id for one in known))
        add_unmatched(
            *(problems, self.test_truth, absent, surplus),
            n_asked=len(asked),
            each="labels",
            only=f"ids of {self.test_labels}",
            fixes=("add them", "remove it"),
        )
        problems.raise_any()
        by_id = {one.id: one for one in known}
        return tuple(by_id[one.id] for one in asked)

    def _test(self, request: StudyRequest, only: Collection[str] | None) -> tuple[Patient, ...]:
        asked = None
        if self.test_labels is not None:
            tasks = {**request.known_tasks, **request.tasks}
            asked = read_template(self.test_labels, tasks=tasks)
        if self.test_truth is not None:
            return self._with_truth(asked, request)
        if asked is not None:
            return asked
        root = self._root("test_images")
        if not root.is_dir():
            raise refused(
                str(root), "a folder of patient folders", "none", "check data.test_images"
            )
        found = patients_below(root, self.layout)
        if found.broken:  # they may be patients, whom nobody would miss
            raise UserError(
                Problem(
                    str(root / one),
                    "a folder of a patient's images",
                    "a link to a folder that is not there",
                    "bring that folder back, or remove the link",
                )
                for one in found.broken
            )
        ids = sorted(found.ids, key=natural_order)
        if not ids:
            raise refused(str(root), f"images named {self.layout.sagittal}", "none", _NAMES)
        if found.others:
            others = listed([escaped(one) for one in found.others])
            log.warning("%s: no patients, by data.sagittal and data.axial: %s", root, others)
        if only is not None:  # what else lies there is not asked about
            wanted = set(map(composed, only))
            ids = [one for one in ids if composed(one) in wanted]
        wrong = [
            str(Problem(f"{root}: {one!r}", _NAME_OF_A_PATIENT, problem, "rename it"))
            for one in ids
            if (problem := check_id(one))
        ]
        if wrong := [*wrong, *two_spellings(str(root), ids)]:
            raise UserError(wrong)
        return tuple(Patient(composed(one), written=one) for one in ids)

    def decode(self, image: ImageRef) -> np.ndarray:
        """See DataSource; images of another size than the layout's are refused."""
        return load_image(image.path, side_px=self.layout.side_px)

    def _with_images(
        self, patients: Sequence[Patient], key: str, request: StudyRequest
    ) -> tuple[Patient, ...]:
        """The patients with the images that the tasks show."""
        root = self._root(key)
        slices = [number for number in self.layout.slices if number in request.sag_image]
        result = []
        problems = Problems()
        for one in patients:
            with problems.collected():
                name = spelling_in(root, one.id, self.layout)
                images = self.layout.images(str(root), name, slices=slices, levels=request.levels)
                shown = tuple(replace(image, patient=one.id) for image in images)
                result.append(replace(one, images=shown))
        problems.raise_any()
        return tuple(result)

    def _unusable(
        self, patients: Sequence[Patient], key: str, request: StudyRequest
    ) -> dict[str, Problems]:
        """Patient id -> what is wrong with the images it needs; every file is really decoded."""
        if self.missing_images == "ignore" or getattr(self, key) is None:  # which is told already
            return {}
        root = self._root(key)
        if not root.is_dir():
            raise refused(str(root), "a folder", "none", f"check data.{key}")
        problems = Problems()
        for plane in ("sagittal", "axial"):
            images = (one for patient in patients for one in patient.images if one.plane == plane)
            paths = [Path(one.path) for one in images]
            if paths and not any(path.exists() for path in paths):
                problems.append(_other_layout(root, paths[0], f"data.{plane}"))
        problems.raise_any()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            absent = "add it, or see data.missing_images"
            if key == "test_images":  # all of them are answered
                known = "test_truth" if self.test_truth else "test_labels"
                drop = f", or take the patient out of data.{known}"
                absent = f"add it{drop if getattr(self, known) else ''}"
            found = pool.map(lambda one: self._image_problems(one, root, request, absent), patients)
            pairs = zip(patients, found, strict=True)
            return {patient.id: problems for patient, problems in pairs if problems}

    def _image_problems(
        self, patient: Patient, root: Path, request: StudyRequest, absent: str
    ) -> Problems:
        """``absent`` is what to do about images that are not there."""
        problems = Problems()
        if not patient.images:  # what is wrong with their names is told already
            return problems
        folder = root / Path(patient.images[0].path).relative_to(root).parts[0]
        if self.layout.sagittal.startswith("{id}/") and not folder.is_dir():
            wanted = f"a folder with {len(patient.images)} images"
            problems.add(str(folder), wanted, "no such folder", absent)
            return problems
        for image in patient.images:
            with problems.collected():
                pixels = load_image(image.path, side_px=self.layout.side_px, absent=absent)
                if request.watch:
                    request.watch(image, pixels)
        return _grouped(problems)

    def _root(self, key: str) -> Path:
        path = getattr(self, key)
        if path is None:
            raise UserError(
                f"data.{key} is not set: give the folder that holds {{id}}/sag and {{id}}/tra"
            )
        return Path(os.path.abspath(expanded(path, f"data.{key}")))  # noqa: PTH100 - keeps links


_NAMES = (
    "check the folder, or say how the images are named (data.sagittal, data.axial, data.slices, "
    "data.side_px; docs/cli.md has an example)"
)


_NAME_OF_A_PATIENT = "an id: a plain folder name without outer spaces"
_MOST_NAMES = 1000  # among which the one most like a name is looked for


def _grouped(problems: Sequence[str]) -> Problems:
    """The problems of a patient's images, of those that say the same of several the first."""
    alike: dict[str, list[str]] = {}
    for one in problems:
        alike.setdefault(one.partition(": ")[2], []).append(one)
    return Problems(
        f"{first} (and {len(rest)} more of this patient's images)" if rest else first
        for first, *rest in alike.values()
    )


def _other_layout(root: Path, wanted: Path, key: str) -> str:
    """The line where not one image lies where a pattern of the layout expects it."""
    near = next((one for one in wanted.parents if one == root or one.is_dir()), root)
    below = (one for folder in (near, root) for one in folder.rglob("*") if one.is_file())
    name = str(wanted.relative_to(root))
    names = [str(one.relative_to(root)) for one in islice(below, _MOST_NAMES)]
    there = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    found = f"not one of them, but files such as {there[0]}" if there else "no file"
    return str(Problem(f"{root}: {key}", f"images such as {name}", found, _NAMES))


def natural_order(text: str) -> list[tuple[int, str]]:
    """A sort key by which ``case-2`` comes before ``case-10``."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(one), "") if k % 2 else (-1, one) for k, one in enumerate(parts)]
