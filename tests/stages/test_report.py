"""``spinevl report``: predict, evaluate and show, for a checkpoint that is there already."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from spinevl.cli.main import main
from spinevl.config.compose import compose
from spinevl.schema.errors import UserError
from spinevl.stages import report, train

SIDE = 64
TINY = [
    "trainer.max_epochs=2",
    "trainer.dev_checks=1",
    "trainer.progress_bar=false",
    f"encoder.image_size={SIDE}",
    "encoder.dim=16",
    "encoder.widths=[8,8,16]",
    "llm.width=32",
]


def study(folder: Path, *, prefix: str, count: int, seed: int) -> list[str]:
    """Write patients whose curvature is the brightness of their image."""
    rng = np.random.default_rng(seed)
    labels: list[dict[str, Any]] = []
    for k in range(count):
        patient = f"{prefix}{k:02d}"
        file = folder / "images" / patient / "sag" / "6.png"
        file.parent.mkdir(parents=True)
        pixels = rng.integers(0, 60, (SIDE, SIDE), dtype=np.uint8) + 80 * (k % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
        labels.append({"id": patient, "qd": k % 3})
    (folder / "labels.json").write_text(json.dumps(labels))
    return words(folder)


def words(folder: Path) -> list[str]:
    """What names the patients of a folder."""
    return [
        "data=cervai",
        f"data.labels={folder}/labels.json",
        f"data.train_images={folder}/images",
        f"data.side_px={SIDE}",
        "data.slices=[6]",
    ]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training on 12 patients and 6 for dev, and another cohort."""
    folder = tmp_path_factory.mktemp("report")
    own = study(folder / "own", prefix="own", count=18, seed=0)
    cfg = compose(
        "train",
        [*own, *TINY, "task=[qd]", "split=head", "split.n_train=12", f"cache_dir={folder}/cache"],
    )
    (folder / "job").mkdir()
    train.main(cfg, out=folder / "job")
    return folder


def run(work: Path, out: Path, *overrides: str) -> tuple[float | None, dict[str, Any], str]:
    """The returned score, ``metrics.json`` and the page."""
    asked = [f"checkpoint={work}/job/checkpoint", f"cache_dir={work}/cache", *overrides]
    value = report.main(compose("report", asked), out=out)
    page = (out / "report.html").read_text("utf-8")
    return value, json.loads((out / "metrics.json").read_text()), page


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (out / "predictions.jsonl").read_text().splitlines()]


def test_the_trainings_dev_patients_beside_the_baselines(work: Path, tmp_path: Path) -> None:
    value, metrics, page = run(work, tmp_path)
    given = lines(tmp_path)
    assert [one["id"] for one in given] == [f"own{k}" for k in range(12, 18)]
    expected = f1_score(
        [one["truth"] for one in given], [one["choice"] for one in given], average="macro"
    )
    assert metrics["qd"]["f1"] == pytest.approx(expected)
    assert value == pytest.approx(expected)
    assert (metrics["subset"], metrics["n_patients"]) == ("dev", 6)
    assert metrics["selection"].startswith("selected on dev")
    assert set(metrics["controls"]) == {"level_majority", "all_majority", "swapped_images"}
    assert set(re.findall(r'aria-label="(own\d+), ', page)) == {one["id"] for one in given}
    assert "<h2>Training</h2>" in page  # from the metrics.csv beside the checkpoint
    assert json.loads((tmp_path / "job_config.json").read_text())["subset"] is None


def test_patients_of_another_cohort(work: Path, tmp_path: Path) -> None:
    other = study(tmp_path / "other", prefix="other", count=9, seed=1)
    _, metrics, page = run(work, tmp_path, *other, "split=head", "split.n_train=3", "subset=dev")
    assert [one["id"] for one in lines(tmp_path)] == [f"other{k:02d}" for k in range(3, 9)]
    assert "data= and split=" in metrics["selection"]
    assert set(re.findall(r'aria-label="(other\d+), ', page)) == {
        one["id"] for one in lines(tmp_path)
    }


def test_answers_that_could_not_be_parsed(work: Path, tmp_path: Path) -> None:
    generated = ("predict.mode=generate", "predict.max_new_tokens=1")
    _, metrics, page = run(work, tmp_path, *generated)
    assert metrics["qd"]["unparsed"] == 6
    assert metrics["qd"]["f1"] == 0.0
    assert page.count('data-answer="wrong unparsed"') == 6
    assert not (tmp_path / "answers.json").exists()


def test_test_patients_without_labels_have_no_report(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"subset=test"):
        run(
            *(work, tmp_path, "subset=test", "split=head", *words(work / "own")),
            f"data.test_images={work}/own/images",
        )
    assert not (tmp_path / "report.html").exists()


def test_patients_that_came_after_the_training_are_not_drawn_into_dev(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = study(tmp_path / "own", prefix="own", count=10, seed=0)
    asked = [*own, *TINY, "task=[qd]", "split=stratified", f"cache_dir={tmp_path}/cache"]
    (tmp_path / "job").mkdir()
    train.main(compose("train", asked), out=tmp_path / "job")
    labels = tmp_path / "own" / "labels.json"
    known = json.loads(labels.read_text())
    labels.write_text(json.dumps(known[::-1]))  # drawn in another order
    with pytest.raises(UserError, match=r"8 train and 2 are dev.*data= and split="):
        run(tmp_path, tmp_path / "again")
    labels.write_text(json.dumps([{**known[0], "id": "own00"}, *known[1:]], indent=1))
    (tmp_path / "same").mkdir()
    assert run(tmp_path, tmp_path / "same")[1]["n_patients"] == 2  # the same patients
    config = tmp_path / "job" / "checkpoint" / "config.json"
    told = json.loads(config.read_text())
    del told["study"]["sides"]  # as before they were kept
    config.write_text(json.dumps(told))
    (tmp_path / "earlier").mkdir()
    run(tmp_path, tmp_path / "earlier")
    assert "earlier version" in caplog.text
    (tmp_path / "named").mkdir()
    labels.write_text(json.dumps(known[::-1]))
    _, metrics, _ = run(tmp_path, tmp_path / "named", *own)
    assert "may have used some" in metrics["selection"]


def test_from_the_command_line(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", f"checkpoint={tmp_path}/nowhere", "hydra.run.dir=gone"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    asked = [f"checkpoint={work}/job/checkpoint", f"cache_dir={work}/cache"]
    assert not main(["report", *asked, "hydra.run.dir=out"])
    assert (tmp_path / "out/report.md").is_file()
    assert not main(["report", *asked, "hydra.run.dir=out"])
    assert "complete already" in capsys.readouterr().err
    image = work / "own/images/own17/sag/6.png"  # which only the checkpoint names
    Image.fromarray(np.full((SIDE, SIDE), 40, dtype=np.uint8)).save(image)
    assert not main(["report", *asked, "hydra.run.dir=out"])
    assert "out.old-1" in capsys.readouterr().err
