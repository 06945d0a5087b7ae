"""Rendered patients to try a checkpoint on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spinevl.config.tasks import official_tasks
from spinevl.playground.archive import Slot, slot_of
from spinevl.playground.patient_files import PATIENT
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.phantom.source import PhantomSource

_SEED = 20_000  # none of the seeds that a training is likely to have


@dataclass(frozen=True)
class Sample:
    """A rendered patient.

    Attributes:
        name: what the page calls it.
        images: its files.
        truth: the labels that it was rendered from.
    """

    name: str
    images: Mapping[Slot, Path]
    truth: Patient


def phantom_samples(
    layout: StudyLayout, wanted: Sequence[Slot], cache: Path, *, count: int = 6
) -> list[Sample]:
    """Phantoms that have the images a checkpoint asks for; none where it was trained on others.

    They are rendered into the cache folder the first time.
    """
    source = PhantomSource(n_train=1, n_dev=1, n_test=count, seed=_SEED)
    if not wanted or layout.side_px not in (source.layout.side_px, None):
        return []
    tasks = official_tasks()
    request = StudyRequest(tasks, tasks, source.layout.slices, {"test"}, lambda: cache)
    samples = []
    for number, patient in enumerate(source.load(request).test):
        images = {slot_of(image): Path(image.path) for image in patient.images}
        if any(slot not in images for slot in wanted):
            return []
        shown = {slot: images[slot] for slot in wanted}
        truth = replace(patient, id=PATIENT)
        samples.append(Sample(f"phantom {number + 1}", shown, truth))
    return samples
