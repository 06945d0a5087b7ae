"""Splits by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.split import FilesSplit, HeadSplit, KFoldSplit, StratifiedSplit, class_counts
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.sources.phantom.labels import draw_labels

TASKS = {name: task for name, task in official_tasks().items() if task.closed}
PEOPLE = [Patient(f"p{k}", draw_labels(np.random.default_rng(k))) for k in range(400)]


def test_stratified_keeps_exact_numbers_and_rare_classes() -> None:
    split = StratifiedSplit(n_train=320, seed=1).split(PEOPLE, TASKS)
    assert (len(split.train), len(split.dev)) == (320, 80)
    assert not {p.id for p in split.train} & {p.id for p in split.dev}
    for task in TASKS.values():
        whole, dev = class_counts(PEOPLE, task), class_counts(split.dev, task)
        for label, count in whole.items():
            assert abs(dev[label] - count / 5) <= max(2, 0.12 * count), (task.name, label)


def test_the_seed_decides() -> None:
    first = StratifiedSplit(seed=1).split(PEOPLE, TASKS)
    assert first == StratifiedSplit(seed=1).split(PEOPLE, TASKS)
    assert first != StratifiedSplit(seed=2).split(PEOPLE, TASKS)


def test_head_takes_the_first() -> None:
    split = HeadSplit(n_train=3).split(PEOPLE[:5], TASKS)
    assert [p.id for p in split.train] == ["p0", "p1", "p2"]
    assert [p.id for p in split.dev] == ["p3", "p4"]


def test_folds_cover_everybody_once() -> None:
    seen = [p.id for k in range(4) for p in KFoldSplit(n_folds=4, fold=k).split(PEOPLE, TASKS).dev]
    assert sorted(seen) == sorted(p.id for p in PEOPLE)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(UserError, match=r"n_train=5: expected 1 to 4"):
        HeadSplit(n_train=5).split(PEOPLE[:5], TASKS)


def test_files_name_unknown_and_shared_ids(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("p0\np1\n")
    (tmp_path / "dev.txt").write_text("p1\nnobody\n")
    with pytest.raises(UserError) as caught:
        FilesSplit(train=str(tmp_path / "train.txt"), dev=str(tmp_path / "dev.txt")).split(
            PEOPLE, TASKS
        )
    assert len(caught.value.problems) == 2


def test_the_smallest_cohorts_split() -> None:
    split = StratifiedSplit().split(PEOPLE[:2], TASKS)
    assert (len(split.train), len(split.dev)) == (1, 1)
    with pytest.raises(UserError, match="two labelled patients or more, there are 1"):
        StratifiedSplit().split(PEOPLE[:1], TASKS)


def test_an_empty_file_of_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("p0\n")
    (tmp_path / "dev.txt").write_text("\n")
    with pytest.raises(UserError, match=r"dev\.txt: expected ids, found none"):
        FilesSplit(train=str(tmp_path / "train.txt"), dev=str(tmp_path / "dev.txt")).split(
            PEOPLE, TASKS
        )
