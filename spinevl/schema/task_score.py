"""How one task scores: its object in ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Interval:
    """The bounds of a 95 % interval."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        """[low, high]"""
        return [self.low, self.high]


@dataclass(frozen=True)
class ClassScore:
    """One label of a closed task.

    Attributes:
        label: the label; one that is no option of the task occurs with ``missing=upstream`` alone.
        answer: the label's answer text; None where the label is no option.
        f1, precision, recall: None where undefined.
        support: how many questions have this label as their truth.
    """

    label: int
    answer: str | None
    f1: float | None
    precision: float | None
    recall: float | None
    support: int


@dataclass(frozen=True)
class FindingScore:
    """Whether the answers to a closed task tell a finding, such as ``moderate or worse``.

    Attributes:
        labels: the labels that have the finding.
        sensitivity: the share of ``positives`` that is answered with one of ``labels``; None
            where there are no positives.
        specificity: the share of ``negatives`` that is answered with another label; None where
            there are no negatives. An unparsed answer counts as wrong in both.
        positives, negatives: how many questions have the finding as their truth, and how many not.
    """

    labels: tuple[int, ...]
    sensitivity: float | None
    specificity: float | None
    positives: int
    negatives: int


@dataclass(frozen=True)
class CalibrationBin:
    """The answers whose probability lies in one of ten equal bins: a dot of a reliability plot.

    Attributes:
        low, high: the bounds of the bin.
        probability: the mean probability of the answers that were chosen.
        frequency: the share of them that is right.
        count: how many there are.
    """

    low: float
    high: float
    probability: float
    frequency: float
    count: int


@dataclass(frozen=True)
class LevelScore:
    """One spine level of a task: ``f1`` and ``accuracy`` of answers, or ``mean_iou`` of boxes."""

    f1: float | None = None
    accuracy: float | None = None
    mean_iou: float | None = None

    def to_json(self) -> dict[str, float]:
        """The values that the task has."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class TaskScore:
    """One task. The fields after ``ci95`` stand in ``metrics.json`` in this order, where set.

    Attributes:
        metric: what ``value`` is, and its key.
        value: None for boxes of patients whose true boxes are unknown.
        accuracy to findings: of the model's answers to a closed task; a baseline has
            ``levels`` alone; boxes have ``levels``, ``unparsed`` and the last two.
        balanced_accuracy, quadratic_kappa: None where undefined.
        confusion: [truth][answer] counts, labels in the order of ``classes``.
        unparsed: how many answers could not be parsed; they count as wrong.
        calibration_error, log_loss, calibration_bins: where there are probabilities; the error is
            the bins' mean distance of frequency and probability, weighted by their counts. Empty
            bins are left out.
        findings: name -> sensitivity and specificity, of a task that names findings.
        missing: how many true boxes have no prediction; they count as an IoU of 0.
        without_truth: how many patients have no true boxes; they are left out.
    """

    metric: Literal["f1", "mean_iou"]
    value: float | None
    ci95: Interval | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    quadratic_kappa: float | None = None
    classes: tuple[ClassScore, ...] = ()
    levels: Mapping[str, LevelScore] | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    unparsed: int | None = None
    unparsed_by_class: tuple[int, ...] = ()
    calibration_error: float | None = None
    log_loss: float | None = None
    calibration_bins: tuple[CalibrationBin, ...] = ()
    findings: Mapping[str, FindingScore] | None = None
    missing: int | None = None
    without_truth: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The task's object in ``metrics.json``."""
        converted: dict[str, Any] = {
            "ci95": self.ci95 and self.ci95.to_json(),
            "classes": [asdict(one) for one in self.classes],
            "levels": {name: one.to_json() for name, one in (self.levels or {}).items()},
            "confusion": [list(row) for row in self.confusion],
            "unparsed_by_class": list(self.unparsed_by_class),
            "calibration_bins": [asdict(one) for one in self.calibration_bins],
            "findings": {
                name: {**asdict(one), "labels": list(one.labels)}
                for name, one in (self.findings or {}).items()
            },
        }
        content: dict[str, Any] = {self.metric: self.value}
        for one in fields(self)[2:]:
            value = getattr(self, one.name)
            undefined = one.name in ("balanced_accuracy", "quadratic_kappa") and self.confusion
            if value != one.default or undefined:
                content[one.name] = converted.get(one.name, value)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TaskScore:
        """The inverse of to_json."""
        metric: Literal["f1", "mean_iou"] = "mean_iou" if "mean_iou" in content else "f1"
        known = {one.name: content[one.name] for one in fields(cls) if one.name in content}
        if "ci95" in known:
            known["ci95"] = Interval(*known["ci95"])
        if "levels" in known:
            known["levels"] = {name: LevelScore(**one) for name, one in known["levels"].items()}
        if "confusion" in known:
            known["classes"] = tuple(ClassScore(**one) for one in known["classes"])
            known["confusion"] = tuple(map(tuple, known["confusion"]))
            known["unparsed_by_class"] = tuple(known["unparsed_by_class"])
        if "calibration_bins" in known:
            bins = known["calibration_bins"]
            known["calibration_bins"] = tuple(CalibrationBin(**one) for one in bins)
        if "findings" in known:
            known["findings"] = {
                name: FindingScore(**{**one, "labels": tuple(one["labels"])})
                for name, one in known["findings"].items()
            }
        return cls(metric, content[metric], **known)
