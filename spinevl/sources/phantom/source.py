"""The phantom cohort as a data source: rendered once into the cache, then read like any study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spinevl.io.hashing import sha256
from spinevl.io.image_file import load_image
from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import Problems, UserError
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task
from spinevl.sources.cervai import CervAISource
from spinevl.sources.labels import read_boxes, read_labels, read_template
from spinevl.sources.phantom import DRAWN, GENERATOR_VERSION
from spinevl.sources.phantom.labels import GRADED
from spinevl.sources.phantom.render import Case
from spinevl.sources.phantom.store import rendered_cohort


@dataclass(kw_only=True, eq=False)
class PhantomSource:
    """Rendered spines with train, dev and test truth. They are no clinical evidence.

    Args:
        n_train, n_dev, n_test: patients of each side; the first two are ignored with ``labels``,
            the last with ``test_labels``.
        seed: of the cohort; patient k is the same whatever the numbers.
        labels, boxes: render these patients, on these boxes where given.
        test_labels: a submission template: its ids, with labels drawn.
        missing_images: as for a real study; a phantom misses none.
    """

    n_train: int = 320
    n_dev: int = 80
    n_test: int = 200
    seed: int = 0
    labels: str | None = None
    boxes: str | None = None
    test_labels: str | None = None
    missing_images: str = "error"
    drawn: int | None = field(init=False)
    layout = StudyLayout()
    names_test = True

    def __post_init__(self) -> None:
        if min(self.n_train, self.n_dev, self.n_test) < 1:
            raise ValueError("n_train, n_dev and n_test: expected 1 or more each")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected 0 or more")
        if self.missing_images not in ("error", "skip", "ignore"):
            raise ValueError(
                f"missing_images={self.missing_images}: expected error, skip or ignore"
            )
        if self.boxes and not self.labels:
            raise ValueError("boxes: given without labels; name the label file of their patients")
        self.drawn = None if self.labels else self.n_train

    def load(self, request: StudyRequest) -> Cohort:
        """Render the cohort where the cache lacks it, and read it as a CervAI study.

        All slices and subsets are rendered, into the folder ``phantom`` of ``cache_dir``. See
        DataSource; a UserError also names tasks that the phantom cannot draw.
        """
        unknown = [t.name for t in request.tasks.values() if t.closed and t.name not in GRADED]
        if unknown:
            raise UserError(
                f"data=phantom has no labels for task {', '.join(unknown)}; it draws "
                f"{', '.join(GRADED)} and positioning"
            )
        cases = self._cases(request.known_tasks)
        spec = self._spec()
        key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
        folder = rendered_cohort(
            cases, request.cache_dir / "phantom" / key, seed=self.seed, spec=spec
        )
        study = CervAISource(
            labels=str(folder / "labels.json"),
            boxes=str(folder / "boxes.json"),
            train_images=str(folder / "images/train"),
            test_images=str(folder / "images/test"),
            test_labels=str(folder / "test_truth.json"),
            missing_images="ignore",
        )
        both = study.load(replace(request, subsets={"train", "test"}))
        test_boxes = read_boxes(folder / "test_boxes.json")
        n_train = len(both.patients)
        return replace(
            both,
            test=tuple(replace(one, boxes=test_boxes[one.id]) for one in both.test),
            test_has_truth=True,
            synthetic=True,
            images_checked=True,  # rendered here
            name=f"phantom ({n_train} train and dev, {len(both.test)} test, seed {self.seed})",
            latents=folder / "latents.json",
        )

    def decode(self, image: ImageRef) -> np.ndarray:
        """See DataSource."""
        return load_image(image.path, side_px=self.layout.side_px)

    def _spec(self) -> dict[str, Any]:
        """What the cohort's content depends on."""
        return {
            "generator": GENERATOR_VERSION,
            "seed": self.seed,
            "train": sha256(Path(self.labels)) if self.labels else [self.n_train, self.n_dev],
            "boxes": sha256(Path(self.boxes)) if self.boxes else None,
            "test": sha256(Path(self.test_labels)) if self.test_labels else self.n_test,
        }

    def _cases(self, known_tasks: Mapping[str, Task]) -> list[Case]:
        if self.labels:
            train = self._given(known_tasks)
        else:
            count = self.n_train + self.n_dev
            train = [Case("train", k, f"{DRAWN}{k:05d}") for k in range(count)]
        if self.test_labels:
            ids = [one.id for one in read_template(self.test_labels, tasks=known_tasks)]
        else:
            ids = [f"{DRAWN}test-{k:05d}" for k in range(self.n_test)]
        return train + [Case("test", k, identity) for k, identity in enumerate(ids)]

    def _given(self, known_tasks: Mapping[str, Task]) -> list[Case]:
        assert self.labels is not None
        boxes = read_boxes(self.boxes) if self.boxes else None
        patients = read_labels(self.labels, tasks=known_tasks, required=GRADED)
        problems = Problems()
        cases = []
        for k, one in enumerate(patients):
            given = None if boxes is None else boxes.get(one.id)
            if boxes is not None and given is None:
                problems.add(f"{self.boxes}: patient {one.id}", "boxes", "none", "add them")
            cases.append(Case("train", k, one.id, one.labels, given))
        problems.raise_any()
        return cases
