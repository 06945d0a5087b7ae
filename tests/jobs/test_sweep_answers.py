"""Settings are compared with the best on the same patients, from what their jobs have left."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from spinevl.evaluation.answer_files import write_predictions
from spinevl.evaluation.evaluate import evaluate
from spinevl.jobs.folder import write_config
from spinevl.jobs.status import JobStatus, write_status
from spinevl.jobs.sweep import read_board, write_leaderboard
from spinevl.models import source
from spinevl.report.leaderboard.csv_files import csv_text, job_table, setting_table
from spinevl.report.leaderboard.latex import latex
from spinevl.report.leaderboard.markdown_page import markdown
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

TASK = Task("grade", "grade", (), ("a", "b", "c"), weight=1.0)
N = 30
TRUTH = [k % 3 for k in range(N)]


def answers(right: int, seed: int = 0) -> list[int]:
    """Labels of which so many are right, the others off by one."""
    places = np.random.default_rng(seed).permutation(N)[:right].tolist()
    return [one if k in places else (one + 1) % 3 for k, one in enumerate(TRUTH)]


def job(
    sweep: Path,
    number: int,
    overrides: Sequence[str],
    given: Sequence[int],
    *,
    dev: float,
    subset: str = "test",
    truth: Sequence[int] = tuple(TRUTH),
    task: Task = TASK,
    file: str = "predictions.jsonl",
) -> Path:
    """A job's folder as ``run`` leaves it."""
    folder = sweep / str(number)
    write_status(folder, JobStatus(number, tuple(overrides), "done", seconds=1.0))
    node = {"_target_": "spinevl.schema.task.Task", **asdict(task)}
    write_config(folder, {"task": {task.name: node}})
    (folder / "train.json").write_text(json.dumps({"dev_score": dev, "dev_measure": "dev score"}))
    predictions = [
        Prediction(f"p{k}", task.name, "", (6,), label, None, "", truth=truth[k])
        for k, label in enumerate(given)
    ]
    write_predictions(folder / file, predictions)
    people = [Patient(f"p{k}", {task.name: label}) for k, label in enumerate(truth)]
    score = evaluate(people, predictions, tasks={task.name: task}, n_resamples=50)
    (folder / "metrics.json").write_text(json.dumps(replace(score, subset=subset).to_json()))
    return folder


def reasons(sweep: Path) -> list[str | None]:
    return [one.unpaired for one in read_board(sweep).settings]


def test_the_difference_is_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    rights = {"a": (27, 25, 24), "b": (20, 16)}
    given: dict[tuple[str, int], list[int]] = {}
    for name, counts in rights.items():
        for seed, right in enumerate(counts):
            given[name, seed] = answers(right, seed)
            # worse on dev where better on test: test patients choose nothing
            dev = 0.9 - right / 100
            job(tmp_path, len(given), [f"x={name}", f"seed={seed}"], given[name, seed], dev=dev)
    board = read_board(tmp_path)
    best, other = board.settings
    assert [one.overrides for one in board.settings] == [("x=b",), ("x=a",)]
    assert (best.paired, best.unpaired) == (None, None)
    paired = other.paired
    assert paired
    assert (paired.subset, paired.n_patients, paired.n_repeats) == ("test", N, 2)
    weights = np.random.default_rng(0).standard_exponential((2001, N))
    weights[0] = 1
    order = np.argsort([f"p{k}" for k in range(N)])  # weights are of the sorted ids
    deltas = []
    for row in weights[:300]:
        weight = np.empty(N)
        weight[order] = row

        def mean(name: str, weight: np.ndarray = weight) -> float:
            one = [
                f1_score(TRUTH, given[name, seed], sample_weight=weight, average="macro")
                for seed in (0, 1)
            ]
            return sum(one) / 2

        deltas.append(mean("a") - mean("b"))
    assert paired.difference.delta == pytest.approx(deltas[0], abs=1e-12)
    assert paired.difference.delta > 0
    assert paired.difference.ci95
    low, high = np.percentile(deltas[1:], [2.5, 97.5])
    # of the first resamples alone
    assert (paired.difference.ci95.low, paired.difference.ci95.high) == pytest.approx(
        (low, high), abs=0.03
    )
    text = markdown(board)
    ci95 = paired.difference.ci95
    assert f"| {deltas[0]:+.3f} [{ci95.low:+.3f}, {ci95.high:+.3f}] |" in text
    assert f"same {N} test patients" in text


def test_dev_patients_are_compared_where_the_truth_of_test_patients_is_unknown(
    tmp_path: Path,
) -> None:
    for number, right in enumerate((25, 20)):
        words, given = [f"x={number}"], answers(right)
        file = "predictions_dev.jsonl"
        folder = job(tmp_path, number, words, given, dev=right / N, subset="dev", file=file)
        (folder / "predictions.jsonl").write_text("of test patients, never read")
    _, other = read_board(tmp_path).settings
    assert other.paired
    assert (other.paired.subset, other.paired.n_patients) == ("dev", N)


def test_folds_are_compared_on_their_own_dev_patients(tmp_path: Path) -> None:
    number = 0
    for name, right in (("a", 28), ("b", 10)):
        for fold in (0, 1):
            words = [f"x={name}", f"split.fold={fold}"]
            folder = job(tmp_path, number, words, answers(right, fold), dev=right / N, subset="dev")
            file = folder / "predictions.jsonl"
            file.write_text(file.read_text().replace('"id": "p', f'"id": "fold{fold}-'))
            number += 1
    _, other = read_board(tmp_path).settings
    assert other.paired
    assert (other.paired.n_patients, other.paired.n_repeats) == (2 * N, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"subset": "dev"}, "other patients"),
        ({"truth": [2 - one for one in TRUTH]}, "other true labels"),
        ({"task": replace(TASK, name="other")}, "other tasks"),
        ({"file": "elsewhere.jsonl"}, "a job has left no predictions.jsonl"),
    ],
)
def test_what_cannot_be_paired_says_why(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    job(tmp_path, 0, ["x=a"], answers(20), dev=0.9)
    job(tmp_path, 1, ["x=b"], answers(15), dev=0.8, **change)
    job(tmp_path, 2, ["x=c"], answers(10), dev=0.7)
    assert reasons(tmp_path) == [None, reason, None]
    assert read_board(tmp_path).settings[2].paired
    text = markdown(read_board(tmp_path))
    assert f"`x=b` ({reason})" in text


def test_settings_without_a_seed_in_common_are_not_compared(tmp_path: Path) -> None:
    job(tmp_path, 0, ["x=a", "seed=0"], answers(20), dev=0.9)
    job(tmp_path, 1, ["x=b", "seed=1"], answers(15), dev=0.8)
    assert [bool(one) for one in reasons(tmp_path)] == [False, True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"choice": 1', '"choice": 2'),
        lambda text: text.replace('"truth": 1', '"truth": NaN', 1),
        lambda text: text.replace('"truth": 1', '"truth": 7', 1),
        lambda text: text.replace('"truth": 1, ', "", 1),
        lambda text: text + text.splitlines()[0],
        lambda text: text[:-20],
        lambda text: "",
    ],
)
def test_answers_that_did_not_give_the_score_are_not_compared(tmp_path: Path, damage: Any) -> None:
    job(tmp_path, 0, ["x=a"], answers(20), dev=0.9)
    file = job(tmp_path, 1, ["x=b"], answers(15), dev=0.8) / "predictions.jsonl"
    assert reasons(tmp_path) == [None, None]
    file.write_text(damage(file.read_text()))
    _, reason = reasons(tmp_path)
    assert reason
    assert "1" in reason
    assert "\n" not in reason
    write_leaderboard(tmp_path)  # which is written all the same
    # a config that cannot be read, too
    (tmp_path / "1/job_config.json").write_text('{"task": {"grade": {"_target_": "os.system"}}}')
    assert reasons(tmp_path)[1]


def test_a_config_with_tasks_asks_no_checkpoint_and_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, right in enumerate((20, 15)):
        folder = job(tmp_path, number, [f"x={number}"], answers(right), dev=right / N)
        config = json.loads((folder / "job_config.json").read_text())
        write_config(folder, {**config, "checkpoint": "hf:a/b"})
    monkeypatch.setattr(source, "checkpoint_folder", lambda _: pytest.fail("a hub was asked"))
    assert read_board(tmp_path).settings[1].paired


def test_the_checkpoint_that_has_the_tasks_is_named(tmp_path: Path) -> None:
    for number, right in enumerate((20, 15)):
        folder = job(tmp_path, number, [f"x={number}"], answers(right), dev=right / N)
        write_config(folder, {"task": None, "checkpoint": "not/here"})
    _, reason = reasons(tmp_path)
    assert reason
    assert "checkpoint=not/here" in reason


def test_two_hundred_jobs_take_seconds(tmp_path: Path) -> None:
    for number in range(200):
        words = [f"x={number // 2}", f"seed={number % 2}"]
        job(tmp_path, number, words, answers(10 + number // 20, number), dev=number / 200)
    begun = time.monotonic()
    board = write_leaderboard(tmp_path)
    assert time.monotonic() - begun < 20
    assert len(board.settings) == 100
    assert sum(one.paired is not None for one in board.settings) == 99


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys to every value that nested lists and objects hold."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*at, key))


@pytest.mark.parametrize("name", ["job.json", "metrics.json", "train.json", "job_config.json"])
def test_no_value_in_a_file_of_one_job_hides_another(tmp_path: Path, name: str) -> None:
    job(tmp_path, 0, ["x=a"], answers(20), dev=0.4)
    file = job(tmp_path, 1, ["x=b"], answers(15), dev=0.5) / name
    whole = json.loads(file.read_text())
    if name == "metrics.json":  # a few of many alike
        whole["grade"] = {key: whole["grade"][key] for key in ("f1", "ci95")}
        control = {"score": 0.1, "grade": {"f1": 0.1}, "paired": {}}
        whole["controls"] = {"swapped_images": control}
    for at in places(whole):
        for value in ("x", None, [], {}, True, -1, [["x"]]):
            changed = json.loads(json.dumps(whole))
            inner = functools.reduce(lambda node, key: node[key], at[:-1], changed)
            inner[at[-1]] = value
            file.write_text(json.dumps(changed))
            board = read_board(tmp_path)
            told = markdown(board), latex(board), csv_text(*setting_table(board))
            assert all("x=a" in text for text in told[::2]), (at, value)
            assert "0.400" in told[0], (at, value)
            assert csv_text(*job_table(board))
