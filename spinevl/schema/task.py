"""What a task asks: its levels, its closed set of answers, its images and its metric.

A task is one YAML file under ``conf/task``; everything that depends on its options (the letters
in the prompt, the answers in the records, the parser, the scorer) reads them from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Metric = Literal["macro_f1", "f1", "mean_iou"]


def is_disc(level: str) -> bool:
    """True for a disc level such as ``C2-C3``, False for a vertebra such as ``C2``."""
    return "-" in level


@dataclass(frozen=True)
class Task:
    """One question type of a study.

    Attributes:
        name: its key in the label file and the front of its record files.
        title: its name for people, as reports print it.
        levels: the spine levels asked about in order; empty for one question a patient.
        choices: the answer text of each label, label 0 first; empty for ``positioning``.
        metric: ``macro_f1``, ``f1`` (of class ``positive``) or ``mean_iou`` (boxes).
        weight: its share of the official score; 0 keeps it out.
        loss_weight: its share of the training loss; ``None`` takes ``weight``, or 0.2 where that
            is 0.
        axial: whether the level's axial image follows the sagittal ones.
        positive: the class whose F1 counts where ``metric`` is ``f1``.
        findings: what a reader of the answers looks for, by name: the labels that have it, such as
            ``{"abnormal": [1, 2], "severe": [2]}``. Each is reported with sensitivity and
            specificity.
        prompt: the question where the prompt file has none for this task.
    """

    name: str
    title: str
    levels: Sequence[str] = ()
    choices: Sequence[str] = ()
    metric: Metric = "macro_f1"
    weight: float = 0.0
    loss_weight: float | None = None
    axial: bool = False
    positive: int | None = None
    prompt: str | None = None
    findings: Mapping[str, Sequence[int]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "choices", tuple(self.choices))
        # it is the front of its files' names
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"task {self.name!r}: expected a name of letters, digits, . _ and -")
        if self.metric not in ("macro_f1", "f1", "mean_iou"):
            raise ValueError(
                f"task {self.name}: metric {self.metric!r} is none of macro_f1, f1, mean_iou"
            )
        if self.closed and len(set(self.choices)) < max(2, len(self.choices)):
            raise ValueError(f"task {self.name}: needs two or more distinct choices")
        if self.metric == "f1" and self.positive not in range(len(self.choices)):
            raise ValueError(f"task {self.name}: metric f1 needs positive, one of its labels")
        labels = set(range(len(self.choices)))
        for name, found in self.findings.items():
            if not (set(found) and set(found) < labels):
                raise ValueError(
                    f"task {self.name}: findings.{name}={list(found)}: expected some of the labels "
                    f"0 to {len(self.choices) - 1}, not all of them"
                )

    @property
    def closed(self) -> bool:
        """True for a choice among ``choices``, False for boxes."""
        return self.metric != "mean_iou"

    @property
    def objects(self) -> tuple[str, ...]:
        """The ``object`` of each question in record order; ``""`` is the whole spine."""
        return tuple(self.levels) or ("",)

    @property
    def options(self) -> tuple[str, ...]:
        """The answer texts in the order of their letters, as a prompt lists them."""
        return tuple(sorted(self.choices))

    @property
    def training_weight(self) -> float:
        """The task's weight in the training loss."""
        return self.loss_weight if self.loss_weight is not None else self.weight or 0.2

    def parse(self, text: str) -> int | None:
        """The label whose answer text is ``text``, outer space aside; None where none is."""
        answer = text.strip()
        return self.choices.index(answer) if answer in self.choices else None
