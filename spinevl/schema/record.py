"""Patients, questions and boxes as they cross from the data to the model and the scorer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from spinevl.schema.task import Task

Label = int | tuple[int, ...]

_BOX_ANSWER = re.compile(
    r"<ref>(?P<ref>[^<>]+)<ref><box>\(([0-9]{1,6}),([0-9]{1,6})\),\(([0-9]{1,6}),([0-9]{1,6})\)<box>"
)


@dataclass(frozen=True)
class Box:
    """A box in pixels of the sagittal image: (x1, y1) upper left, (x2, y2) lower right."""

    x1: int
    y1: int
    x2: int
    y2: int

    def answer(self, vertebra: str) -> str:
        """The answer text of ``positioning``: ``<ref>C2<ref><box>(x1,y1),(x2,y2)<box>``."""
        return f"<ref>{vertebra}<ref><box>({self.x1},{self.y1}),({self.x2},{self.y2})<box>"

    def as_list(self) -> list[int]:
        """[x1, y1, x2, y2]"""
        return [self.x1, self.y1, self.x2, self.y2]

    @staticmethod
    def parse_answer(text: str, vertebra: str) -> Box | None:
        """The box that an answer text names for ``vertebra``; None where it is not exactly one."""
        match = _BOX_ANSWER.fullmatch(text.strip())
        if match is None or match["ref"] != vertebra:
            return None
        box = Box(*(int(number) for number in match.groups()[1:]))
        return box if box.x1 < box.x2 and box.y1 < box.y2 else None


@dataclass(frozen=True)
class Patient:
    """One patient's labels and boxes.

    Attributes:
        id: the folder name of the patient's images.
        labels: task name -> label, or one label a level; empty where unknown.
        boxes: vertebra -> the box in slice 5, 6 and 7; None where the patient has none.
    """

    id: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    boxes: Mapping[str, tuple[Box, Box, Box]] | None = None

    def label(self, task: str, level_index: int) -> int | None:
        """The label of one question; None where the patient's label is unknown."""
        value = self.labels.get(task)
        return value[level_index] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Cohort:
    """The patients of one study, wherever they come from.

    Attributes:
        patients: the labelled patients (train and dev) in the order of the label file.
        test: the test patients in the order of the submission template.
        train_images: the folder that holds ``{id}/sag`` and ``{id}/tra`` of ``patients``.
        test_images: the same for ``test``.
        test_has_truth: whether the labels of ``test`` are truth and may be scored.
        synthetic: whether the images are rendered; such a cohort is no clinical evidence.
        name: what reports call it.
        latents: a side file with the geometry behind a synthetic cohort; training never opens it.
        sources: the input files by role, for manifests and fingerprints.
        skipped: ids left out because ``missing_images=skip`` was asked for.
    """

    patients: tuple[Patient, ...]
    test: tuple[Patient, ...]
    train_images: Path
    test_images: Path
    test_has_truth: bool
    synthetic: bool
    name: str
    latents: Path | None = None
    sources: Mapping[str, Path] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class DataSource(Protocol):
    """Where a cohort comes from: what the config group ``data`` builds."""

    def load(
        self,
        *,
        tasks: Mapping[str, Task],
        known_tasks: Mapping[str, Task],
        sag_image: Sequence[int],
        subsets: Collection[str],
        cache_dir: Path,
    ) -> Cohort:
        """The cohort, its files and images checked.

        Args:
            tasks: the tasks selected; their labels are required.
            known_tasks: tasks whose labels are checked where a record has them.
            sag_image: the sagittal slices shown.
            subsets: which of ``train``, ``dev``, ``test`` will be used.
            cache_dir: where a source may keep what it makes, shared between jobs.

        Raises:
            UserError: with every problem found.
        """


@dataclass(frozen=True)
class Record:
    """One question about one patient: what ``build`` writes and training reads.

    Attributes:
        id, task, object, answer: as in the record file; ``answer`` is None where unknown.
        images: absolute paths, sagittal ones first in the order asked, then the axial one.
        prompt: the human turn, with one ``<image>`` for each of ``images``.
        slices: the sagittal slice numbers shown.
        label: the choice index of ``answer``; None for boxes and where unknown.
    """

    id: str
    task: str
    images: tuple[str, ...]
    object: str
    answer: str | None
    prompt: str
    slices: tuple[int, ...] = ()
    label: int | None = None

    def to_json(self, *, with_answer_turn: bool) -> dict[str, Any]:
        """The record's JSON object in the official key order; the gpt turn is for train only."""
        turns = [{"from": "human", "value": self.prompt}]
        if with_answer_turn:
            turns.append({"from": "gpt", "value": self.answer})  # type: ignore[dict-item]
        return {
            "id": self.id,
            "task": self.task,
            "image": list(self.images),
            "object": self.object,
            "answer": self.answer,
            "conversations": turns,
        }
