"""The main job on a handful of phantoms, from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import spinevl

from spinevl import load
from spinevl.schema.errors import UserError
from spinevl.training.resume import SaveState

SMALL = [
    "data.n_train=12",
    "data.n_dev=4",
    "data.n_test=6",
    "trainer.max_epochs=2",
    "trainer.dev_checks=1",
    "trainer.progress_bar=false",
    *("encoder.widths=[8,8,16]", "encoder.dim=16"),
    *("llm.width=32", "llm.layers=1", "llm.heads=2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def job(folder: Path) -> Path:
    done = spinevl("run", *SMALL, "hydra.run.dir=job", f"cache_dir={folder}/cache", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "job"


def test_everything_is_written(job: Path) -> None:
    metrics = json.loads((job / "metrics.json").read_text())
    assert 0 <= metrics["score"] <= 1
    assert "ci95" not in metrics
    assert "6 patients" in metrics["notes"]["ci95"]
    assert set(metrics["controls"]) == {
        "level_majority",
        "all_majority",
        "swapped_images",
        "ceiling",
    }
    for control in metrics["controls"].values():
        assert {"score", "qd", "sl", "zjppt", "zyzg", "paired"} <= set(control)
        delta = control["paired"]["score"]["delta"]
        assert delta == pytest.approx(metrics["score"] - control["score"])
    lines = [json.loads(line) for line in (job / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 6 * 18
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1)
    assert len(json.loads((job / "answers.json").read_text())) == 6
    assert len(json.loads((job / "zyzg_train.json").read_text())) == 12 * 11
    page = (job / "report.html").read_text()
    assert "no clinical evidence" in page
    assert "Not for clinical use." in page
    train = json.loads((job / "train.json").read_text())
    assert train["samples_per_second"] > 0
    assert 0 <= train["padding_share"] < 1


def test_test_records_carry_no_answer(job: Path) -> None:
    for record in json.loads((job / "qd_test.json").read_text()):
        assert record["answer"] is None
        assert len(record["conversations"]) == 1


def test_the_same_command_gives_the_same_weights(job: Path, folder: Path) -> None:
    again = spinevl("train", *SMALL, "hydra.run.dir=again", f"cache_dir={folder}/cache", cwd=folder)
    assert again.returncode == 0, again.stderr
    digests = {
        hashlib.sha256((where / "checkpoint/model.safetensors").read_bytes()).hexdigest()
        for where in (job, folder / "again")
    }
    assert len(digests) == 1


def test_predict_evaluate_and_doctor_agree_with_the_job(job: Path, folder: Path) -> None:
    (cohort,) = (folder / "cache/phantom").iterdir()
    template = cohort / "test_template.json"
    predicted = spinevl(
        "predict",
        "checkpoint=job/checkpoint",
        "data=cervai",
        f"data.test_images={cohort}/images/test",
        f"data.test_labels={template}",
        "predict.batch_size=1",
        "hydra.run.dir=predicted",
        cwd=folder,
    )
    assert predicted.returncode == 0, predicted.stderr
    assert (folder / "predicted/answers.json").read_text() == (job / "answers.json").read_text()
    pairs = zip(
        (folder / "predicted/predictions.jsonl").read_text().splitlines(),
        (job / "predictions.jsonl").read_text().splitlines(),
        strict=True,
    )
    for one, many in pairs:
        assert json.loads(one)["probabilities"] == pytest.approx(
            json.loads(many)["probabilities"], abs=1e-5
        )
    scored = spinevl(
        "evaluate",
        f"labels={cohort}/test_truth.json",
        "answers=job/answers.json",
        "hydra.run.dir=scored",
        cwd=folder,
    )
    assert scored.returncode == 0, scored.stderr
    score = json.loads((folder / "scored/metrics.json").read_text())["score"]
    assert score == json.loads((job / "metrics.json").read_text())["score"]
    checked = spinevl(
        "doctor", "answers=job/answers.json", f"data.test_labels={template}", cwd=folder
    )
    assert checked.returncode == 0, checked.stderr
    assert "ok" in checked.stdout


def test_python_predicts_what_the_verb_predicts(job: Path, folder: Path) -> None:
    (cohort,) = (folder / "cache/phantom").iterdir()
    answers = load(job / "checkpoint", device="cpu").predict(cohort / "images/test")
    stored = {
        (line["id"], line["task"], line["object"]): line["choice"]
        for line in map(json.loads, (job / "predictions.jsonl").read_text().splitlines())
    }
    assert {(a.id, a.task, a.object): a.choice for a in answers} == stored
    some = cohort / "images/test" / answers[0].id
    model = load(job / "checkpoint", device="cpu")
    assert {one.id for one in model.predict([some])} == {answers[0].id}
    with pytest.raises(UserError, match="nobody: expected a patient folder, found none"):
        model.predict([some, some.parent / "nobody"])
    with pytest.raises(UserError, match="two folders are called"):
        model.predict([some, cohort / "images/train" / some.name])
    with pytest.raises(UserError, match=r"load\.mode"):
        load(job / "checkpoint", mode="guess", device="cpu")
    table = answers.to_frame()
    assert isinstance(answers, list)
    assert len(table) == len(answers)
    assert table["patient"].tolist() == [one.id for one in answers]
    assert table["choice"].tolist() == [one.choice for one in answers]


def test_predict_answers_the_trainings_own_test_patients_by_default(
    job: Path, folder: Path
) -> None:
    done = spinevl(
        "predict",
        "checkpoint=job/checkpoint",
        "hydra.run.dir=own",
        f"cache_dir={folder}/cache",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "own/answers.json").read_text() == (job / "answers.json").read_text()


def test_training_on_record_files_is_training_on_their_study(job: Path, folder: Path) -> None:
    cache = f"cache_dir={folder}/cache"
    built = spinevl("build", *SMALL[:3], "suffix=v2", "hydra.run.dir=built", cache, cwd=folder)
    assert built.returncode == 0, built.stderr
    shutil.rmtree(folder / "again2", ignore_errors=True)
    records = ("records=built", "suffix=v2")
    done = spinevl("train", *SMALL, *records, "hydra.run.dir=again2", cache, cwd=folder)
    assert done.returncode == 0, done.stderr
    weights = "checkpoint/model.safetensors"
    assert (folder / "again2" / weights).read_bytes() == (job / weights).read_bytes()
    # the records say who trains, whatever the config's split would say
    numbers = ("data.n_train=13", "data.n_dev=3", "split=head", "hydra.run.dir=again3")
    other = spinevl("train", *SMALL[2:], *numbers, *records, cache, cwd=folder)
    assert other.returncode == 0, other.stderr
    split = json.loads((folder / "again3/split.json").read_text())
    assert (split["train"]["n_patients"], split["dev"]["n_patients"]) == (12, 4)
    foreign = spinevl(
        "train", *SMALL[2:], "data.n_train=9", "data.n_dev=3", *records, cache, cwd=folder
    )
    assert foreign.returncode == 1
    assert "phantom-00015" in foreign.stderr
    assert "Traceback" not in foreign.stderr
    unsaid = spinevl("train", *SMALL, "records=built", cache, cwd=folder)
    assert unsaid.returncode == 1
    assert "built/qd_train.json" in unsaid.stderr


def test_boxes_are_generated_scored_and_compared(folder: Path) -> None:
    done = spinevl(
        "run", *SMALL, "task=[qd,positioning]", "hydra.run.dir=boxes", f"cache_dir={folder}/cache",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "boxes/metrics.json").read_text())
    assert metrics["score"] is None
    assert not (folder / "boxes/answers.json").exists()
    mean = metrics["controls"]["level_majority"]
    assert 0.1 < mean["positioning"]["mean_iou"] < 0.6  # a vertebra's mean box over 12 patients
    delta = mean["paired"]["positioning"]["delta"]
    own = metrics["positioning"]["mean_iou"]
    assert delta == pytest.approx(own - mean["positioning"]["mean_iou"])
    assert "mean_iou" in metrics["controls"]["swapped_images"]["positioning"]
    lines = [json.loads(line) for line in (folder / "boxes/predictions.jsonl").open()]
    boxes = [line for line in lines if line["task"] == "positioning"]
    assert len(boxes) == 6 * 6
    assert all(line["choice"] is None and line["slices"] == [6] for line in boxes)


def test_weights_and_biases_without_a_network(folder: Path) -> None:
    pytest.importorskip("wandb")
    logger = ("logger=wandb", "logger.wandb.offline=true", "hydra.run.dir=wandb")
    done = spinevl("train", *SMALL, *logger, f"cache_dir={folder}/cache", cwd=folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "wandb/wandb").glob("offline-run-*/run-*.wandb")
    assert b"dev/score" in run.read_bytes()


def test_ctrl_c_ends_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SaveState.on_train_batch_end

    def press(self: Any, trainer: Any, module: Any, *rest: Any) -> None:
        if module.step == 3:
            signal.raise_signal(signal.SIGINT)
        saved(self, trainer, module, *rest)

    monkeypatch.setattr(SaveState, "on_train_batch_end", press)
    words = [
        *SMALL,
        "trainer.max_epochs=5000",
        "hydra.run.dir=stopped",
        f"cache_dir={folder}/cache",
    ]
    job = spinevl("run", *words, cwd=folder)
    assert job.returncode == 130, job.stderr
    assert "spinevl: interrupted" in job.stderr
    assert "Traceback" not in job.stderr
    state = json.loads((folder / "stopped/job.json").read_text())
    assert (state["status"], state["error"]) == ("interrupted", "interrupted")


def test_ctrl_c_ends_the_process_of_a_sweep(folder: Path) -> None:
    words = ["-m", "seed=0,1", *SMALL, "trainer.max_epochs=5000", "hydra.sweep.dir=swept"]
    job = subprocess.Popen(
        [sys.executable, "-m", "spinevl", "run", *words, f"cache_dir={folder}/cache"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list((folder / "swept").rglob("metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    job.send_signal(signal.SIGINT)
    try:
        _, said = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 130, said
    assert "spinevl: interrupted" in said
    assert "Traceback" not in said
    (state,) = [json.loads(file.read_text()) for file in (folder / "swept").rglob("job.json")]
    assert (state["status"], state["error"]) == ("interrupted", "interrupted")


def test_mistakes_are_one_line_without_a_traceback(folder: Path) -> None:
    for arguments, said in (
        (["train", "encoder=resnet"], "tiny"),
        (["run", "task=[qd,nope]"], "zyzg"),
        (["run", "sag_image=[4]"], "5, 6, 7"),
        (["predict", "checkpoint=nowhere"], "nowhere"),
        (["predict", "checkpoint=nowhere", "data.n_test=3"], "data=cervai|conversations|phantom"),
        (["run", "data=cervai", "data.labels=missing.json"], "missing.json"),
        (["run", *SMALL, "trainer.accelerator=gpu"], "trainer.accelerator=gpu: "),
        (["run", "cache_dir=/proc/nowhere"], "cache_dir=/proc/nowhere"),
        (["run", "sag_image=6"], "'sag_image=[6]'"),
        (["run", "logger.offline=true"], "logger.wandb.offline"),
        (["runn"], "run"),
    ):
        done = spinevl(*arguments, cwd=folder)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
