"""Patients whose images are arrays in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import Problems, refused
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient, composed
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.labels import check_id

VOLUME = "sagittal"
"""The key of a volume [slices, H, W] in place of single sagittal slices."""

Arrays = Mapping[str, Mapping[int | str, Any]]
"""Patient -> number of a sagittal slice, level of an axial one, or VOLUME -> its pixels."""

_LEVELS = {*(f"C{k}" for k in range(1, 8)), *(f"C{k}-C{k + 1}" for k in range(1, 7))}


@dataclass(kw_only=True, eq=False)
class ArraySource:
    """A study of arrays, with test patients alone.

    Args:
        patients: slice n of a volume is ``volume[n]``. An image is uint8 [H, W], or [H, W, 3] with
            equal channels.
        layout: the numbers of the slices and the size of every image, as in the training.
    """

    patients: Arrays
    layout: StudyLayout
    names_test = True
    drawn: int | None = None

    def load(self, request: StudyRequest) -> Cohort:
        """See DataSource."""
        problems = Problems()
        shown = self.layout.images("", "", slices=request.sag_image, levels=request.levels)
        known = {*_LEVELS, *request.levels, VOLUME}
        test = []
        for patient, arrays in self.patients.items():
            if wrong := check_id(patient):
                problems.add("patients", "ids that could name a folder", wrong, "rename it")
                continue
            if not isinstance(arrays, Mapping):
                wanted = f"a mapping of slice numbers, levels or {VOLUME!r} to arrays"
                found = type(arrays).__name__
                problems.add(f"patient {patient}", wanted, found, "say which image it is")
                continue
            images = [_named(one, patient) for one in shown]
            slices = [one for one in arrays if _is_slice(one)]
            for key in arrays:
                if key not in slices and key not in known:
                    wanted = f"slice numbers, levels (C2-C3) and {VOLUME!r}"
                    problems.add(f"patient {patient}", wanted, f"the key {key!r}", "rename it")
            if VOLUME in arrays and slices:
                found = f"both, {VOLUME!r} and {', '.join(map(str, slices))}"
                wanted = "a volume or single sagittal slices"
                problems.add(f"patient {patient}", wanted, found, "leave out one of them")
                continue
            for image in images:
                with problems.collected():
                    self.decode(image)
            test.append(Patient(composed(patient), images=tuple(images), written=patient))
        for one, count in Counter(one.id for one in test).items():
            if count > 1:
                problems.add(f"patient {one}", "one mapping", "another", "rename one")
        if not self.patients:
            problems.add("predict", "patients", "none", "give a mapping of ids to their images")
        problems.raise_any()
        return Cohort(
            patients=(),
            test=tuple(test),
            layout=self.layout,
            test_has_truth=False,
            synthetic=False,
            name=f"arrays ({len(test)} patients)",
        )

    def decode(self, image: ImageRef) -> np.ndarray:
        """See DataSource. Raises UserError for an array that is missing or no 8-bit image."""
        arrays = self.patients[image.patient]
        key = image.level if image.slice is None else image.slice
        if image.slice is not None and VOLUME in arrays:
            volume = _array(arrays[VOLUME], image.path)
            if volume.ndim == 3 and 0 <= image.slice < len(volume):
                return self._grey(image.path, volume[image.slice])
            wanted = f"in {VOLUME!r} a volume [slices, H, W] with slice {image.slice}"
            raise refused(image.path, wanted, f"shape {list(volume.shape)}", "give all slices")
        if key is None or key not in arrays:
            given = ", ".join(map(repr, arrays)) or "none"
            raise refused(image.path, f"an array for {key!r}", f"keys {given}", "add it")
        return self._grey(image.path, _array(arrays[key], image.path))

    def _grey(self, where: str, pixels: np.ndarray) -> np.ndarray:
        """Held to what files are held to."""
        side = self.layout.side_px
        found = f"{pixels.dtype} {list(pixels.shape)}"
        if pixels.dtype != np.uint8:
            raise refused(where, "8-bit grey values (uint8)", found, "window them to 0 to 255")
        if pixels.ndim == 3 and pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        if pixels.ndim != 2 or not pixels.size:
            wanted = "[H, W], or [H, W, 3] with equal channels"
            raise refused(where, wanted, found, "convert it to grey")
        if side is not None and pixels.shape != (side, side):
            raise refused(where, f"{side} x {side} pixels", found, "resample it")
        return pixels


def _is_slice(key: object) -> bool:
    return isinstance(key, Integral) and not isinstance(key, bool) and int(key) >= 0


def _array(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:  # rows of different lengths, a tensor on a GPU
        raise refused(where, "an array", str(error), "pass a NumPy array") from error


def _named(image: ImageRef, patient: str) -> ImageRef:
    what = f"slice {image.slice}" if image.slice is not None else f"level {image.level}"
    return ImageRef(
        f"patient {patient}, {what}",
        patient=patient,
        plane=image.plane,
        slice=image.slice,
        level=image.level,
    )
