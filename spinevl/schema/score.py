"""What ``metrics.json`` holds: the scores of the model and of its baselines, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spinevl.schema.task_score import Interval, TaskScore


@dataclass(frozen=True)
class Difference:
    """The model's value minus a baseline's, paired over the same resampled patients."""

    delta: float
    ci95: Interval | None

    def to_json(self) -> dict[str, Any]:
        """``{"delta", "ci95"}``"""
        return {"delta": self.delta, "ci95": self.ci95 and self.ci95.to_json()}


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
