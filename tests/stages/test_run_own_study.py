"""The main job on patients of one's own: their test labels are scored, unparsed answers too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.tasks import official_tasks
from spinevl.evaluation.answer_files import read_predictions
from spinevl.evaluation.evaluate import evaluate
from spinevl.jobs.status import JobStatus, write_status
from spinevl.jobs.sweep import read_board
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.errors import UserError
from spinevl.sources.labels import read_labels
from spinevl.sources.phantom.source import PhantomSource
from spinevl.stages import doctor, run

TASKS = official_tasks()
GRADED = {name: task for name, task in TASKS.items() if task.closed}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, labels and boxes of 12 patients and of 4 test patients."""
    cache = tmp_path_factory.mktemp("cache")
    request = StudyRequest(TASKS, TASKS, [6], {"train", "test"}, lambda: cache)
    PhantomSource(n_train=8, n_dev=4, n_test=4).load(request)
    (folder,) = (cache / "phantom").iterdir()
    return folder


def words(study: Path, *more: str) -> list[str]:
    return [
        "data=cervai",
        f"data.labels={study}/labels.json",
        f"data.boxes={study}/boxes.json",
        f"data.train_images={study}/images/train",
        f"data.test_images={study}/images/test",
        f"data.test_labels={study}/test_template.json",
        f"cache_dir={study}/cache",
        "task=[qd,sl,zjppt,zyzg,positioning]",
        "split.n_train=8",
        *("trainer.max_epochs=1", "trainer.dev_checks=1", "trainer.progress_bar=false"),
        *("encoder.dim=16", "encoder.widths=[8,8,16]", "llm.width=32"),
        *more,
    ]


def job(out: Path, verb: Any, overrides: list[str]) -> Any:
    name = verb.__name__.rpartition(".")[2]
    return verb.main(compose(name, overrides), out=out)


def test_the_labels_of_test_patients_are_scored_though_no_answer_is_parsed(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = [f"data.test_truth={study}/test_truth.json", f"data.test_boxes={study}/test_boxes.json"]
    # too few tokens for an answer
    cut = ["predict.mode=generate", "predict.max_new_tokens=1", f"output_dir={tmp_path}"]
    value = job(tmp_path, run, words(study, *truth, *cut))
    assert value == json.loads((tmp_path / "train.json").read_text())["dev_score"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["subset"], metrics["n_patients"]) == ("test", 4)
    assert metrics["score"] == 0
    assert metrics["qd"]["unparsed"] == 4
    assert metrics["positioning"]["mean_iou"] == 0
    assert metrics["positioning"]["unparsed"] == 4 * 6
    assert set(metrics["below_baseline"]) >= {"score", "qd", "positioning"}
    assert (tmp_path / "report.html").is_file()
    assert not (tmp_path / "answers.json").exists()
    assert any("no answers.json" in one.message for one in caplog.records)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    labels = {one["id"]: one for one in json.loads((study / "test_truth.json").read_text())}
    for line in lines:
        if line["task"] == "sl":
            assert line["truth"] == labels[line["id"]]["sl"]
            assert line["correct"] is False
    # evaluate says the same of the file, from the given labels
    people = read_labels(study / "test_truth.json", tasks=GRADED)
    given = read_predictions(tmp_path / "predictions.jsonl", tasks=GRADED)
    assert evaluate(people, given, tasks=GRADED).value == metrics["score"]
    # a leaderboard ranks it by dev
    write_status(tmp_path, JobStatus(0, (), "done"))
    (row,) = read_board(tmp_path).rows
    assert (row.value, row.scored) == (value, 0)


def test_doctor_refuses_test_labels_of_other_patients(study: Path, tmp_path: Path) -> None:
    known = json.loads((study / "test_truth.json").read_text())
    (tmp_path / "truth.json").write_text(json.dumps(known[1:]))
    with pytest.raises(UserError) as caught:
        job(tmp_path, doctor, words(study, f"data.test_truth={tmp_path}/truth.json"))
    (line,) = caught.value.problems
    assert f"patient {known[0]['id']}" in line
    assert "truth.json" in line
