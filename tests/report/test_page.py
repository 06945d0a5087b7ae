"""The report's two files, made from a Score and predictions joined with the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.baselines import Given
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import with_truth
from spinevl.report.gallery import gallery
from spinevl.report.markdown import as_markdown, rows
from spinevl.report.metrics_file import read_metrics, write_metrics
from spinevl.report.page import write_report
from spinevl.schema.box import Box
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Score

TASKS = {name: official_tasks()[name] for name in ("qd", "zjppt", "positioning")}
DISCS = TASKS["zjppt"].levels
BOX = Box(0, 0, 10, 10)
PATIENTS = [
    Patient(name, {"qd": 1, "zjppt": (0,) * 5}, {v: {6: BOX} for v in TASKS["positioning"].levels})
    for name in "ab"
]


def predictions(wrong: str) -> list[Prediction]:
    """All right, but for one disc of patient b."""
    result = []
    for name in "ab":
        result.append(Prediction(name, "qd", "", (5, 6), 1, None, "B.straight curvature"))
        for level in DISCS:
            label = 3 if (name, level) == ("b", wrong) else 0
            table = {one: 0.9 if one == label else 0.1 / 3 for one in range(4)}
            text = TASKS["zjppt"].choices[label]
            result.append(Prediction(name, "zjppt", level, (5, 6), label, table, text))
        result += [
            Prediction(name, "positioning", vertebra, (6,), None, None, "", BOX)
            for vertebra in TASKS["positioning"].levels
        ]
    return with_truth(result, PATIENTS, TASKS)


@pytest.fixture
def score() -> Score:
    given = predictions("C4-C5")
    return evaluate(
        PATIENTS,
        given,
        tasks=TASKS,
        baselines=[Given("level_majority", "the model itself", given)],
        n_resamples=20,
    )


def pictures(folder: Path) -> dict[str, list[ImageRef]]:
    """Files whose names say nothing: what they show stands in their ImageRef alone."""
    result: dict[str, list[ImageRef]] = {}
    for name in "ab":
        images = [ImageRef("", patient=name, plane="sagittal", slice=k) for k in (7, 5, 6)]
        images += [ImageRef("", patient=name, plane="axial", level=level) for level in DISCS]
        for number, image in enumerate(images):
            file = folder / f"{name}{number}.png"
            file.write_bytes(f"{name} {image.plane} {image.slice or image.level}".encode())
            result.setdefault(name, []).append(
                ImageRef(
                    str(file),
                    patient=name,
                    plane=image.plane,
                    slice=image.slice,
                    level=image.level,
                )
            )
    return result


def shown(uri: str) -> str:
    import base64

    return base64.b64decode(uri.rpartition(",")[2]).decode()


def test_the_gallery_shows_the_middle_slice_and_the_level_of_the_worst_answer(
    tmp_path: Path,
) -> None:
    cards = gallery(predictions("C4-C5"), TASKS, pictures=pictures(tmp_path))
    assert [(one["id"], one["errors"], len(one["answers"])) for one in cards] == [
        ("b", 1, 6),
        ("a", 0, 6),
    ]
    worst = cards[0]["answers"][0]
    assert (worst["question"], worst["truth"], worst["answer"]) == (
        f"{TASKS['zjppt'].title} C4-C5",
        "normal",
        "extrusion",
    )
    names = [(name, shown(uri)) for name, uri in cards[0]["pictures"]]
    assert names == [("sagittal", "b sagittal 5"), ("axial C4-C5", "b axial C4-C5")]


def test_a_patient_without_pictures_has_a_card_all_the_same(tmp_path: Path) -> None:
    gone = {"b": [ImageRef(str(tmp_path / "gone.png"), plane="sagittal", slice=6)]}
    cards = gallery(predictions("C2-C3"), TASKS, pictures=gone)
    assert [one["pictures"] for one in cards] == [[], []]


def test_both_files_are_written(tmp_path: Path, score: Score) -> None:
    write_report(
        tmp_path,
        score=score,
        predictions=predictions("C4-C5"),
        tasks=TASKS,
        pictures=pictures(tmp_path),
        config="seed: 0",
        fingerprint={"n": 2},
        cohort="two patients",
    )
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# two patients\n\nNot for clinical use.\n\n2 patients; .\n")
    assert "- model minus level majority: +0.000, too few patients for an interval" in text
    assert "- model minus level majority, vertebra boxes: " in text
    page = (tmp_path / "report.html").read_text()
    assert "no clinical evidence" not in page
    assert "partial score (weights renormalised)" in page
    assert "level majority: the model itself." in page
    assert page.count("<figure>") == 4  # of each patient a sagittal and an axial image


def test_the_metrics_are_read_as_written(
    tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_metrics(score, TASKS, out=tmp_path) == score.value
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["partial_score", *TASKS]
    assert table[2].startswith("level majority")
    assert read_metrics(tmp_path) == score
    assert as_markdown(rows(score, TASKS)).count("\n") == 3
    for text in ("", "[]", "{}", '{"score": 1.0, "ci95": 3, "n_patients": 1}'):
        (tmp_path / "metrics.json").write_text(text)
        assert read_metrics(tmp_path) is None


def test_boxes_alone_are_what_a_sweep_compares(tmp_path: Path) -> None:
    tasks = {"positioning": TASKS["positioning"]}
    score = evaluate(PATIENTS, predictions(""), tasks=tasks, n_resamples=2)
    assert score.value is None
    assert write_metrics(score, tasks, out=tmp_path) == 1.0
