"""Which labelled patients train and which are dev."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from spinevl.build.roles import role
from spinevl.config.check import validate
from spinevl.config.keys import key
from spinevl.io.json_file import kind_of, read_json, read_text
from spinevl.schema.errors import Problem, UserError, refused
from spinevl.schema.patient import Patient, composed
from spinevl.schema.task import Task

if TYPE_CHECKING:
    import numpy as np

_N_TRAIN: dict[str, Any] = {"help": "patients in train; null is 80 %", "min": 1}
_SEED: dict[str, Any] = {"help": "of the shuffling", "min": 0, "max": 2**32 - 1}


@dataclass(frozen=True)
class Split:
    """The patients of each side, in the order of the label file."""

    train: tuple[Patient, ...]
    dev: tuple[Patient, ...]

    def summary(self, tasks: Mapping[str, Task]) -> dict[str, Any]:
        """Ids and class counts of each side, as ``split.json`` holds them."""
        return {
            side: {
                "n_patients": len(patients),
                "classes": {
                    task.name: dict(sorted(class_counts(patients, task).items()))
                    for task in tasks.values()
                    if task.closed
                },
                "ids": [patient.id for patient in patients],
            }
            for side, patients in (("train", self.train), ("dev", self.dev))
        }


def class_counts(patients: Sequence[Patient], task: Task) -> Counter[int]:
    """How often each label of a task stands in the patients' labels."""
    labels = (patient.label(task.name, k) for patient in patients for k in range(len(task.objects)))
    return Counter(label for label in labels if label is not None)


@role("splitter")
class Splitter(Protocol):
    """What the config group ``split`` builds."""

    def split(self, patients: Sequence[Patient], tasks: Mapping[str, Task]) -> Split:
        """Which of the labelled patients train and which are dev."""


@dataclass(kw_only=True)
class HeadSplit:
    """The first ``n_train`` patients train, the rest is dev: the challenge's own split."""

    n_train: int | None = key(None, **_N_TRAIN)

    def __post_init__(self) -> None:
        validate(self, at="split")

    def split(self, patients: Sequence[Patient], tasks: Mapping[str, Task]) -> Split:
        """Raises UserError where a side would be empty."""
        n_train = _n_train(self.n_train, len(patients))
        return Split(tuple(patients[:n_train]), tuple(patients[n_train:]))


@dataclass(kw_only=True)
class StratifiedSplit:
    """A seeded split that keeps every task's classes in proportion, by patient.

    Iterative stratification (Sechidis et al. 2011) over the indicators "the patient has this class
    at some level", then the nearest exact count.
    """

    n_train: int | None = key(None, **_N_TRAIN)
    seed: int = key(0, **_SEED)

    def __post_init__(self) -> None:
        validate(self, at="split")

    def split(self, patients: Sequence[Patient], tasks: Mapping[str, Task]) -> Split:
        """Raises UserError where a side would be empty."""
        import numpy as np

        from spinevl.data.stratify import stratify

        n_train = _n_train(self.n_train, len(patients))
        indicators = _indicators(patients, tasks)
        shares = [n / len(patients) for n in (n_train, len(patients) - n_train)]
        side = stratify(indicators, shares=shares, seed=self.seed)
        train, dev = (np.flatnonzero(side == number).tolist() for number in (0, 1))
        return _exact(patients, train, dev, n_train, indicators)


@dataclass(kw_only=True)
class KFoldSplit:
    """Fold ``fold`` of ``n_folds`` stratified folds is dev."""

    n_folds: int = key(5, help="stratified folds", min=2)
    fold: int = key(0, help="the fold that is dev, counted from 0", min=0)
    seed: int = key(0, **_SEED)

    def __post_init__(self) -> None:
        validate(self, at="split")

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """A fold that there is not."""
        last = values["n_folds"] - 1
        return {} if values["fold"] <= last else {"fold": f"0 to {last}, a fold of split.n_folds"}

    def split(self, patients: Sequence[Patient], tasks: Mapping[str, Task]) -> Split:
        """Raises UserError where there are fewer patients than folds."""
        import numpy as np

        from spinevl.data.stratify import stratify

        if len(patients) < self.n_folds:
            raise UserError(f"split.n_folds={self.n_folds}: only {len(patients)} patients")
        shares = [1 / self.n_folds] * self.n_folds
        fold = stratify(_indicators(patients, tasks), shares=shares, seed=self.seed)
        dev = set(np.flatnonzero(fold == self.fold).tolist())
        return _sides(patients, set(range(len(patients))) - dev, dev)


@dataclass(kw_only=True)
class FilesSplit:
    """Two files of patient ids, one a line or a JSON list."""

    train: str = key(help="file of the train patients' ids, one a line or a JSON list")
    dev: str = key(help="the same for dev")

    def __post_init__(self) -> None:
        validate(self, at="split")

    def split(self, patients: Sequence[Patient], tasks: Mapping[str, Task]) -> Split:
        """Raises UserError for unknown, repeated or shared ids."""
        sides = {path: _read_ids(path) for path in (self.train, self.dev)}
        known = {patient.id: k for k, patient in enumerate(patients)}
        problems = []
        for path, ids in sides.items():
            for one, count in Counter(ids).items():
                if one not in known:
                    problems.append(Problem(f"{path}: {one}", "a labelled patient", "none", "drop"))
                if count > 1:
                    problems.append(Problem(f"{path}: {one}", "one line", f"{count}", "drop some"))
        problems += [Problem(p, "ids", "none", "name some") for p, ids in sides.items() if not ids]
        for one in sorted(set(sides[self.train]) & set(sides[self.dev])):
            problems.append(Problem(f"{self.dev}: {one}", "no train id", "one", "keep one side"))
        if problems:
            raise UserError(problems)
        train, dev = ({known[one] for one in ids} for ids in sides.values())
        return _sides(patients, train, dev)


def _n_train(n_train: int | None, total: int) -> int:
    if total < 2:
        raise UserError(f"a split needs two labelled patients or more, there are {total}")
    wanted = min(max(1, round(0.8 * total)), total - 1) if n_train is None else n_train
    if not 0 < wanted < total:
        raise UserError(
            f"split.n_train={wanted}: expected 1 to {total - 1}, for there are {total} patients "
            "and dev needs one"
        )
    return wanted


def _indicators(patients: Sequence[Patient], tasks: Mapping[str, Task]) -> np.ndarray:
    """[patients, classes of all tasks] whether a patient has a class at some level."""
    import numpy as np

    rows = [
        [
            label in {patient.label(task.name, k) for k in range(len(task.objects))}
            for task in tasks.values()
            for label in range(len(task.choices))
        ]
        + [True]
        for patient in patients
    ]
    return np.array(rows, dtype=int)


def _exact(
    patients: Sequence[Patient], train: list[int], dev: list[int], n_train: int, rows: np.ndarray
) -> Split:
    """Move the patients with the most frequent classes until the counts are as asked."""
    import numpy as np

    rarity = rows @ (1.0 / np.maximum(rows.sum(axis=0), 1))
    by_rarity = sorted(range(len(patients)), key=lambda k: (rarity[k], k))
    source, target = (train, dev) if len(train) > n_train else (dev, train)
    members = set(source)
    for index in [k for k in by_rarity if k in members][: abs(len(train) - n_train)]:
        source.remove(index)
        target.append(index)
    return _sides(patients, set(map(int, train)), set(map(int, dev)))


def _sides(patients: Sequence[Patient], train: set[int], dev: set[int]) -> Split:
    return Split(
        tuple(patient for k, patient in enumerate(patients) if k in train),
        tuple(patient for k, patient in enumerate(patients) if k in dev),
    )


def _read_ids(path: str) -> list[str]:
    if path.endswith(".json"):
        content = read_json(path, expected="a list of ids")
        if not isinstance(content, list):
            raise refused(path, "a list of ids", kind_of(content), "mend it")
        for number, one in enumerate(content, start=1):
            if not isinstance(one, str):
                raise refused(f"{path}: entry {number}", "an id", kind_of(one), "mend it")
        return [composed(one) for one in content]
    lines = read_text(path, expected="a file of ids, one a line").split("\n")
    return [composed(line.strip()) for line in lines if line.strip()]
