"""The phantom cohort as a data source: rendered once into the cache, then read like any study."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spinevl.data.cervai import CervAISource
from spinevl.data.labels import read_boxes, read_labels, read_template
from spinevl.data.phantom import GENERATOR_VERSION
from spinevl.data.phantom.acquisition import acquire
from spinevl.data.phantom.anatomy import Anatomy, draw_anatomy
from spinevl.data.phantom.axial import render_axial
from spinevl.data.phantom.labels import draw_labels
from spinevl.data.phantom.sagittal import render_sagittal
from spinevl.schema.errors import UserError
from spinevl.schema.record import Box, Cohort, Label
from spinevl.schema.task import AXIAL_STEMS, SAGITTAL_SLICES, VERTEBRAE, Task

log = logging.getLogger(__name__)

_NOTICE = "Rendered phantoms: no clinical evidence. Made by spinevl; see spec.json.\n"
_TEST_STREAM = 1_000_003  # test patients draw from another stream than training ones


@dataclass(frozen=True)
class _Case:
    """One patient to render."""

    side: str
    index: int
    id: str
    labels: Mapping[str, Label] | None
    boxes: Mapping[str, tuple[Box, Box, Box]] | None


class PhantomSource:
    """Rendered spines with train, dev and test truth.

    Args:
        n_train, n_dev, n_test: patients of each side; the first two are ignored with ``labels``,
            the last with ``test_labels``.
        seed: of the cohort; patient k is the same whatever the numbers.
        labels, boxes: render these patients, on these boxes where given.
        test_labels: a submission template: its ids, with labels drawn.
        missing_images: as for a real study.
    """

    def __init__(
        self,
        *,
        n_train: int = 320,
        n_dev: int = 80,
        n_test: int = 200,
        seed: int = 0,
        labels: str | None = None,
        boxes: str | None = None,
        test_labels: str | None = None,
        missing_images: str = "error",
    ) -> None:
        if min(n_train, n_dev, n_test) < 1:
            raise ValueError("n_train, n_dev and n_test: expected 1 or more each")
        self.n_train = None if labels else n_train
        self.n_dev = n_dev
        self.n_test = n_test
        self.seed = seed
        self.labels = labels
        self.boxes = boxes
        self.test_labels = test_labels
        self.missing_images = missing_images

    def load(
        self,
        *,
        tasks: Mapping[str, Task],
        known_tasks: Mapping[str, Task],
        sag_image: Sequence[int],
        subsets: Collection[str],
        cache_dir: Path,
    ) -> Cohort:
        """Render the cohort where the cache lacks it, and read it as a CervAI study."""
        unknown = [t.name for t in tasks.values() if t.closed and t.name not in _GRADED]
        if unknown:
            raise UserError(
                f"data=phantom has no labels for task {', '.join(unknown)}; it draws "
                f"{', '.join(_GRADED)} and positioning"
            )
        cases = self._cases(known_tasks)
        folder = cache_dir / "phantom" / self._key()
        if not (folder / "spec.json").is_file():
            self._render(cases, folder)
        source = CervAISource(
            labels=str(folder / "labels.json"),
            boxes=str(folder / "boxes.json"),
            train_images=str(folder / "images/train"),
            test_images=str(folder / "images/test"),
            test_labels=str(folder / "test_truth.json"),
            missing_images="ignore",
        )
        both = source.load(
            tasks=tasks,
            known_tasks=known_tasks,
            sag_image=sag_image,
            subsets={"train", "test"},
            cache_dir=cache_dir,
        )
        test_boxes = read_boxes(folder / "test_boxes.json")
        n_train = len(both.patients)
        return replace(
            both,
            test=tuple(replace(one, boxes=test_boxes[one.id]) for one in both.test),
            test_has_truth=True,
            synthetic=True,
            name=f"phantom ({n_train} train and dev, {len(both.test)} test, seed {self.seed})",
            latents=folder / "latents.json",
        )

    def _key(self) -> str:
        """A name for the cohort's content: generator, numbers, seed and input files."""
        spec = {
            "generator": GENERATOR_VERSION,
            "seed": self.seed,
            "train": _digest(self.labels) if self.labels else [self.n_train, self.n_dev],
            "boxes": _digest(self.boxes) if self.boxes else None,
            "test": _digest(self.test_labels) if self.test_labels else self.n_test,
        }
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]

    def _cases(self, known_tasks: Mapping[str, Task]) -> list[_Case]:
        boxes = read_boxes(self.boxes) if self.boxes else {}
        if self.labels:
            patients = read_labels(self.labels, tasks=known_tasks, required=_GRADED)
            lacking = [one.id for one in patients if self.boxes and one.id not in boxes]
            if lacking:
                raise UserError(f"{self.boxes}: no boxes for patients {', '.join(lacking)}")
            train = [
                _Case("train", k, one.id, one.labels, boxes.get(one.id))
                for k, one in enumerate(patients)
            ]
        else:
            count = (self.n_train or 0) + self.n_dev
            train = [_Case("train", k, f"phantom-{k:05d}", None, None) for k in range(count)]
        if self.test_labels:
            ids = [one.id for one in read_template(self.test_labels, tasks=known_tasks)]
        else:
            ids = [f"phantom-test-{k:05d}" for k in range(self.n_test)]
        return train + [_Case("test", k, one, None, None) for k, one in enumerate(ids)]

    def _render(self, cases: Sequence[_Case], folder: Path) -> None:
        """Render into a folder beside, then rename; the first of several jobs wins."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        beside.chmod(0o755)
        try:
            entries: dict[str, dict[str, Any]] = {}
            for done, (case, entry) in enumerate(_rendered(cases, beside, self.seed), start=1):
                entries[f"{case.side}/{case.id}"] = entry
                if done % 200 == 0:
                    log.info("rendered %d of %d phantoms", done, len(cases))
            _write_lists(beside, cases, entries)
            spec = {"generator": GENERATOR_VERSION, "seed": self.seed, "patients": len(cases)}
            (beside / "README.txt").write_text(_NOTICE, encoding="utf-8")
            (beside / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
            try:
                beside.rename(folder)
            except OSError:
                if not (folder / "spec.json").is_file():
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)


_GRADED = ("qd", "sl", "zjppt", "zyzg")


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _rendered(
    cases: Sequence[_Case], folder: Path, seed: int
) -> Iterator[tuple[_Case, dict[str, Any]]]:
    """Render on every core; new processes, since forking one that runs torch can hang."""
    workers = min(os.cpu_count() or 1, 16, 1 + len(cases) // 40)
    if workers == 1:
        for case in cases:
            yield case, render_case(case, folder, seed)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        n = len(cases)
        yield from zip(
            cases, pool.map(render_case, cases, [folder] * n, [seed] * n, chunksize=8), strict=True
        )


def render_case(case: _Case, folder: Path, seed: int) -> dict[str, Any]:
    """Draw one patient, write its 14 images, and return labels, boxes and latents.

    A patient depends on the seed, its side and its number alone.
    """
    rng = np.random.default_rng([seed, case.index + (_TEST_STREAM if case.side == "test" else 0)])
    labels = dict(case.labels) if case.labels is not None else draw_labels(rng)
    anatomy = draw_anatomy(labels, rng, boxes=case.boxes)
    for name, image in _images(anatomy, rng):
        path = folder / "images" / case.side / case.id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)
    return {"labels": labels, "boxes": anatomy.boxes, "latents": anatomy.latents()}


def _images(anatomy: Anatomy, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    for number in SAGITTAL_SLICES:
        ideal = render_sagittal(anatomy, slice_number=number, rng=rng)
        yield f"sag/{number}.png", acquire(ideal, rng)
    for level, stem in enumerate(AXIAL_STEMS):
        yield f"tra/{stem}.png", acquire(render_axial(anatomy, level=level, rng=rng), rng)


def _write_lists(
    folder: Path, cases: Sequence[_Case], entries: Mapping[str, Mapping[str, Any]]
) -> None:
    """The label, box and latent files, in the challenge's formats."""
    latents = {}
    for side, label_file, box_file in (
        ("train", "labels.json", "boxes.json"),
        ("test", "test_truth.json", "test_boxes.json"),
    ):
        labels, boxes, template = [], [], []
        for case in cases:
            if case.side != side:
                continue
            entry = entries[f"{side}/{case.id}"]
            latents[f"{side}/{case.id}"] = entry["latents"]
            plain = {name: entry["labels"][name] for name in _GRADED}
            labels.append({"id": case.id, **plain})
            template.append({"id": case.id, "qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11})
            boxes.append(
                {
                    "id": case.id,
                    **{
                        name: [f"({b.x1},{b.y1})({b.x2},{b.y2})" for b in entry["boxes"][name]]
                        for name in VERTEBRAE
                    },
                }
            )
        _write_json(folder / label_file, labels)
        _write_json(folder / box_file, boxes)
        if side == "test":
            _write_json(folder / "test_template.json", template)
    _write_json(folder / "latents.json", latents)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
