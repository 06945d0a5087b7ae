"""Settings of a sweep: what its jobs vary, with seeds and folds folded in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spinevl.report.leaderboard.rows import Row, Spread, ranked_together
from spinevl.schema.score import Difference
from spinevl.schema.task_score import Interval

_DECIMALS = 12  # scores that differ by less are equal: means of the same numbers are rounded
DEFAULTS = "(defaults)"
ALONE = "(the only setting)"
_ALWAYS = ("done", "failed", "running")


@dataclass(frozen=True)
class Paired:
    """The score of a setting minus that of the best, on the same patients.

    Attributes:
        difference: mean over the seeds and folds that both settings have; the interval is over
            patients.
        subset: which patients, ``dev`` or ``test``.
        n_patients, n_repeats: how many, and over how many seeds and folds.
    """

    difference: Difference
    subset: str
    n_patients: int
    n_repeats: int


@dataclass(frozen=True)
class Setting:
    """Jobs of one verb with the same overrides but for seed and fold.

    Attributes:
        verb: what its jobs do; empty where it is not known.
        overrides: without seed and fold.
        jobs: in the order of their numbers.
        rank: from 1; None without a score to rank by.
        paired: with the best setting; None for that one, and where no comparison is possible.
        unpaired: why none is.
    """

    verb: str
    overrides: tuple[str, ...]
    jobs: tuple[Row, ...]
    rank: int | None = None
    paired: Paired | None = None
    unpaired: str | None = None

    @cached_property
    def counted(self) -> tuple[Row, ...]:
        """The jobs with scores; of the same job in two folders the first one.

        Partial scores count only if the setting has no full ones.
        """
        once = {one.identity or one.folder: one for one in reversed(self._scored)}
        return tuple(one for one in reversed(once.values()) if one.partial == self.partial)

    @property
    def partial(self) -> bool:
        """Whether graded tasks are missing from its scores."""
        return bool(self._scored) and all(one.partial for one in self._scored)

    @cached_property
    def _scored(self) -> list[Row]:
        return [one for one in self.jobs if one.value is not None or one.scored is not None]

    @cached_property
    def value(self) -> Spread | None:
        """What it is ranked by, see Row.value."""
        return self.over(lambda row: row.value)

    @cached_property
    def scored(self) -> Spread | None:
        """The scores of ``metrics.json``."""
        return self.over(lambda row: row.scored)

    def over(self, of: Callable[[Row], float | None]) -> Spread | None:
        """Mean and deviation of a value of its jobs."""
        return Spread.of([found for row in self.counted if (found := of(row)) is not None])

    def task(self, name: str) -> Spread | None:
        """F1 or mean IoU of a task."""
        return self.over(lambda row: row.tasks.get(name))

    def control(self, name: str) -> Spread | None:
        """The score of a baseline."""
        return self.over(lambda row: row.controls.get(name))

    def mean(self, of: Callable[[Row], float | None]) -> float | None:
        """The mean of a value over its jobs that are done."""
        done = [one for one in self.jobs if one.status == "done"]
        found = Spread.of([value for row in done if (value := of(row)) is not None])
        return found.mean if found else None

    @property
    def patients(self) -> str:
        """Whose answers are scored, see Row.patients."""
        return ", ".join(sorted({one.patients for one in self.counted if one.patients}))

    @property
    def ci95(self) -> Interval | None:
        """The interval of its score where that is of one job."""
        scores = [one.score for one in self.counted if one.score]
        return scores[0].ci95 if len(scores) == 1 else None

    @property
    def statuses(self) -> Mapping[str, int]:
        """Status -> how many of its jobs."""
        return Counter(one.status for one in self.jobs)

    @property
    def error(self) -> str | None:
        """The error of the first job that has one."""
        return next((one.error for one in self.jobs if one.error), None)

    @property
    def repeats(self) -> dict[tuple[str, ...], Row]:
        """Seed and fold -> the job that has been scored with them."""
        return {one.repeat: one for one in reversed(self.counted) if one.scored is not None}


@dataclass(frozen=True)
class Board:
    """What a leaderboard shows.

    Attributes:
        settings: best first; those without a score to rank by last, in the order of their jobs.
        rows: every job: in the order of the settings, then those whose setting is not known.
    """

    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Board:
        """The jobs by their settings, ranked."""
        groups: dict[tuple[str, tuple[str, ...]], list[Row]] = defaultdict(list)
        unknown: list[Row] = []
        for row in sorted(
            ranked_together(rows), key=lambda r: (r.number is None, r.number or 0, r.folder)
        ):
            (groups[row.verb, row.setting] if row.is_known else unknown).append(row)
        found = [Setting(*key, tuple(jobs)) for key, jobs in groups.items()]
        # a full score and one over fewer tasks do not compare: full ones first
        found.sort(key=lambda s: (*_order(s), s.value is None and s.scored is None))
        places = [_order(one) for one in found]
        ranked = [
            replace(one, rank=places.index(place) + 1 if one.value else None)
            for one, place in zip(found, places, strict=True)
        ]
        return cls(tuple(ranked), (*(row for one in ranked for row in one.jobs), *unknown))

    @cached_property
    def common(self) -> list[str]:
        """The overrides that all settings share."""
        if not self.settings:
            return []
        sets = [set(one.overrides) for one in self.settings]
        return [one for one in self.settings[0].overrides if all(one in every for every in sets)]

    def name(self, setting: Setting) -> str:
        """What of a setting's overrides varies, in a line."""
        return " ".join(self.varied(setting)) or self.unvaried

    def varied(self, setting: Setting) -> list[str]:
        """The overrides of a setting that not all have, behind its verb where verbs vary."""
        verb = [setting.verb] if len({one.verb for one in self.settings}) > 1 else []
        return [*verb, *(one for one in setting.overrides if one not in self.common)]

    @property
    def unvaried(self) -> str:
        """The name of a setting in which nothing varies."""
        return ALONE if len(self.settings) == 1 and self.common else DEFAULTS

    @property
    def outdated(self) -> dict[str, list[list[Row]]]:
        """``key=path`` -> jobs with scores that found the same there, where not all did."""
        found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in (row for one in self.settings for row in one.counted):
            for name, content in row.files.items():
                found[name][content].append(row)
        return {name: list(each.values()) for name, each in found.items() if len(each) > 1}

    @property
    def tasks(self) -> list[str]:
        """Every task that any job scored."""
        return list(dict.fromkeys(task for row in self.rows for task in row.tasks))

    @property
    def controls(self) -> list[str]:
        """Every baseline that any job has a score of."""
        found = {
            name: None for row in self.rows for name, one in row.controls.items() if one is not None
        }
        return list(found)

    @property
    def has_dev(self) -> bool:
        """Whether any job has a dev score, beside which scores of ``metrics.json`` stand."""
        return any(row.dev is not None for row in self.rows)

    @property
    def patients(self) -> list[str]:
        """Whose answers the scores are of, see Row.patients."""
        return sorted({one.patients for one in self.rows if one.patients})

    @property
    def score_name(self) -> str:
        """What the scores of ``metrics.json`` are called."""
        scores = [one.score for one in self.rows if one.score and one.score.value is not None]
        name = "partial score" if scores and not any(one.complete for one in scores) else "score"
        subsets = {one.subset for one in scores}
        return f"{'test ' if subsets == {'test'} else ''}{name}"

    @property
    def statuses(self) -> Mapping[str, int]:
        """Status -> how many jobs; done, failed and running are always told."""
        counts = Counter(row.status for row in self.rows)
        return {**dict.fromkeys(_ALWAYS, 0), **counts}


def _order(setting: Setting) -> tuple[bool, bool, float]:
    value = setting.value
    return value is None, setting.partial, -round(value.mean, _DECIMALS) if value else 0.0
