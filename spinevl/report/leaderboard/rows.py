"""A row of the table of jobs, and numbers over several of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from spinevl.schema.score import Score

# overrides by which jobs repeat the same setting: chance in training, and who is dev
_REPEATS = ("seed", "split.fold", "split.seed")
_TRAININGS = ("run", "train", "")  # verbs; that of an earlier version's job is not known

NOT_BEGUN = "not begun"
"""The status of a job of a sweep whose turn has not come."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over jobs; there is no deviation of one alone."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of the jobs that have a value; None where none has, or numbers too large for a sum."""
        if not values:
            return None
        try:
            sd = statistics.stdev(values) if len(values) > 1 else None
            return cls(statistics.fmean(values), sd, len(values))
        except OverflowError:
            return None


@dataclass(frozen=True)
class Row:
    """One job of a sweep.

    Attributes:
        folder: its name in the sweep folder; none before it has begun.
        number, overrides, status, error, seconds: as in ``job.json``. Where that is absent the
            status is ``missing``, and where it cannot be read ``unreadable``.
        score: the content of its ``metrics.json``; None where it has not been scored.
        dev: the dev score of its training; None where it trained nothing, or scored nothing.
        partial_dev: whether graded tasks are missing from ``dev``.
        tokens_per_second: of its training; None where it trained nothing.
        identity: of the job, see jobs.identity; None where it could not run.
        files: which files it read: ``key=path`` of its config -> what their content is known by.
        verb: what the job does; empty where it is not known.
        ranks: whether its score compares with those that rank the board's other jobs.
    """

    folder: str
    number: int | None
    overrides: tuple[str, ...]
    status: str
    error: str | None
    seconds: float | None
    score: Score | None = None
    dev: float | None = None
    partial_dev: bool = False
    tokens_per_second: float | None = None
    identity: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    verb: str = ""
    ranks: bool = True

    @property
    def is_known(self) -> bool:
        """Whether its overrides are, so that it belongs to a setting."""
        return self.number is not None

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides without seed and fold; jobs that share it are repeats of each other."""
        return tuple(one for one in self.overrides if not _is_repeat(one))

    @property
    def repeat(self) -> tuple[str, ...]:
        """Seed and fold, as ``seed=1``."""
        return tuple(sorted(one.lstrip("+") for one in self.overrides if _is_repeat(one)))

    @property
    def value(self) -> float | None:
        """What settings are ranked by: the dev score, never that of test patients.

        A job that trains nothing has the score of the answers it was given, unless others of the
        board have a dev score, or the score of other patients.
        """
        if not self.ranks:
            return None
        on_test = self.score is not None and self.score.subset == "test"
        return self.scored if self.dev is None and not on_test else self.dev

    @property
    def patients(self) -> str:
        """Whose answers are scored: ``dev``, ``test``, or the label file as ``labels=FILE``."""
        if self.score is None:
            return ""
        labels = (name for name in self.files if name.startswith("labels="))
        return self.score.subset or next(labels, "")

    @property
    def measure(self) -> str:
        """The same for jobs whose answers are scored on the same patients."""
        return self.files.get(self.patients, self.patients)

    @property
    def scored(self) -> float | None:
        """The score, or the partial score where ``partial``; None where there is neither."""
        return self.score.value if self.score else None

    @property
    def partial(self) -> bool:
        """Whether graded tasks are missing from the scores."""
        return self.partial_dev or (self.score is not None and not self.score.complete)

    @property
    def tasks(self) -> Mapping[str, float | None]:
        """Task name -> its F1 or mean IoU."""
        return {name: one.value for name, one in self.score.tasks.items()} if self.score else {}

    @property
    def controls(self) -> Mapping[str, float | None]:
        """Baseline -> its score on the same patients."""
        return {name: one.value for name, one in self.score.baselines.items()} if self.score else {}


def ranked_together(rows: Sequence[Row]) -> list[Row]:
    """Rows of which only those rank whose scores compare.

    Beside trainings, which have dev scores, jobs that only answer or score rank nothing; and no
    job does where all only score, and not the same patients.
    """
    if any(one.dev is not None for one in rows):
        return [replace(one, ranks=one.verb in _TRAININGS) for one in rows]
    same = len({one.measure for one in rows if one.value is not None}) <= 1
    return [replace(one, ranks=same) for one in rows]


def _is_repeat(override: str) -> bool:
    return override.lstrip("+").partition("=")[0] in _REPEATS
