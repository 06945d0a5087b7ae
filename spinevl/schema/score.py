"""What ``metrics.json`` holds: the scores of the model and of its baselines, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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
class Difference:
    """The model's value minus a baseline's, paired over the same resampled patients."""

    delta: float
    ci95: Interval | None

    def to_json(self) -> dict[str, Any]:
        """``{"delta", "ci95"}``"""
        return {"delta": self.delta, "ci95": self.ci95 and self.ci95.to_json()}


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


@dataclass(frozen=True)
class AnswerScore:
    """How one set of answers scores.

    Attributes:
        value: the weighted score of the graded tasks; None where there are none.
        complete: whether ``value`` is the official score; where graded tasks are missing it is a
            partial score, whose weights are renormalised.
        ci95: of ``value``.
        tasks: task name -> its score; closed tasks come first, boxes last.
    """

    value: float | None
    complete: bool
    ci95: Interval | None
    tasks: Mapping[str, TaskScore]

    @property
    def key(self) -> str:
        """The key of ``value`` in ``metrics.json``."""
        return "score" if self.complete else "partial_score"

    def to_json(self) -> dict[str, Any]:
        """The total and the tasks."""
        content: dict[str, Any] = {"score": None}
        if self.value is not None:
            content[self.key] = self.value
        if self.ci95 is not None:
            content["ci95"] = self.ci95.to_json()
        return content | {name: one.to_json() for name, one in self.tasks.items()}


def _totals(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of AnswerScore from the JSON of one of its subclasses."""
    complete = content.get("score") is not None
    return {
        "value": content["score"] if complete else content.get("partial_score"),
        "complete": complete,
        "ci95": Interval(*content["ci95"]) if "ci95" in content else None,
        "tasks": {
            name: TaskScore.from_json(one)
            for name, one in content.items()
            if isinstance(one, Mapping) and ("f1" in one or "mean_iou" in one)
        },
    }


@dataclass(frozen=True)
class BaselineScore(AnswerScore):
    """A baseline's score, and ``paired``: task or total -> the model minus this baseline."""

    paired: Mapping[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """The baseline's object in ``metrics.json``; without a total where it gave boxes alone."""
        content = super().to_json()
        if all(task.metric == "mean_iou" for task in self.tasks.values()):
            del content["score"]
        return content | {"paired": {key: one.to_json() for key, one in self.paired.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BaselineScore:
        """The inverse of to_json."""
        paired = {
            key: Difference(one["delta"], Interval(*one["ci95"]) if one["ci95"] else None)
            for key, one in content["paired"].items()
        }
        return cls(**_totals(content), paired=paired)


@dataclass(frozen=True)
class Score(AnswerScore):
    """The content of ``metrics.json``.

    Attributes:
        n_patients: how many patients were scored.
        baselines: name -> score, in the order of reports.
        notes: what ``ci95`` and the baselines are.
        below_baseline: task or total -> the best baseline, where that scores above the model.
        subset: which patients a job scored, ``dev`` or ``test``; None outside of a job.
        selection: whether these patients also selected the checkpoint.
        synthetic: whether their images are rendered.
    """

    n_patients: int
    baselines: Mapping[str, BaselineScore]
    notes: Mapping[str, str]
    below_baseline: Mapping[str, str] = field(default_factory=dict)
    subset: str | None = None
    selection: str | None = None
    synthetic: bool | None = None

    @property
    def entries(self) -> dict[str, AnswerScore]:
        """``model`` and the baselines by name: the rows of a table."""
        return {"model": self, **self.baselines}

    def to_json(self) -> dict[str, Any]:
        """The JSON object; the baselines' key is ``controls``."""
        content = super().to_json()
        content["n_patients"] = self.n_patients
        content["controls"] = {name: one.to_json() for name, one in self.baselines.items()}
        content["notes"] = dict(self.notes)
        if self.below_baseline:
            content["below_baseline"] = dict(self.below_baseline)
        job = {key: getattr(self, key) for key in ("subset", "selection", "synthetic")}
        return content | {key: value for key, value in job.items() if value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Score:
        """The inverse of to_json. Raises KeyError or TypeError for what is no ``metrics.json``."""
        return cls(
            **_totals(content),
            n_patients=content["n_patients"],
            baselines={
                name: BaselineScore.from_json(one) for name, one in content["controls"].items()
            },
            notes=content["notes"],
            below_baseline=content.get("below_baseline", {}),
            subset=content.get("subset"),
            selection=content.get("selection"),
            synthetic=content.get("synthetic"),
        )
