"""The report's two files, made from a Score and predictions joined with the truth."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinevl.config.tasks import official_tasks
from spinevl.evaluation.baselines import Given
from spinevl.evaluation.evaluate import evaluate
from spinevl.evaluation.join import with_truth
from spinevl.report.markdown import as_markdown, rows
from spinevl.report.metrics_file import read_metrics, write_metrics
from spinevl.report.page import CLINICAL, IDS, PHANTOM, PRIVACY, write_report
from spinevl.report.task_details import classes
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


VOID = {"meta", "img", "link", "br"}
PROVENANCE = {
    "git_commit": "0123abc",
    "git_dirty": True,
    "versions": {"spinevl": "0.2", "peft": None},
}
FINGERPRINT = {"cohort": "two", "n_labelled": 2, "skipped": [], "inputs": {"labels": "fee1"}}


class Page(HTMLParser):
    """An HTML page: every element with its attributes and the text within."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        texts: list[str] = []
        self.elements.append((tag, dict(attrs), texts))
        if tag not in VOID:
            self._open.append((tag, texts))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        for _, texts in self._open:
            texts.append(data)

    def find(self, tag: str, **attributes: str) -> list[str]:
        """The text of the elements with these attributes."""
        return [
            " ".join(" ".join(texts).split())
            for name, found, texts in self.elements
            if name == tag and all(value in (found.get(k) or "") for k, value in attributes.items())
        ]


def report(out: Path, score: Score, **changed: Any) -> Page:
    """The page of a report on the two patients."""
    given = {
        "predictions": predictions("C4-C5"),
        "tasks": TASKS,
        "pictures": {
            name: [ImageRef(name, patient=name, plane="sagittal", slice=6)] for name in "ab"
        },
        "load": lambda _image: np.zeros((4, 4), np.uint8),
        "config": "seed: 0",
        "provenance": PROVENANCE,
        "fingerprint": FINGERPRINT,
        "cohort": "two patients",
    }
    write_report(out, score=score, **given | changed)
    return Page((out / "report.html").read_text("utf-8"))


def test_the_page_has_scores_classes_levels_data_and_versions(tmp_path: Path, score: Score) -> None:
    page = report(tmp_path, score)
    assert page.find("h1") == ["two patients"]
    assert "level majority: the model itself." in page.find("li")
    # classes: n, F1, sensitivity, precision; of ten discs one is wrong
    assert "normal 10 0.95 0.90 1.00" in page.find("tr")
    assert "straight curvature 2 1.00 1.00 1.00" in page.find("tr")
    assert "normal curvature 0 – – –" in page.find("tr")
    assert "normal 90 % 9 0 % 0 0 % 0 10 % 1" in page.find("tr")
    # findings: n, sensitivity, specificity; no disc is protruded, one is called so
    assert "protrusion or worse 0 of 10 – 0.90" in page.find("tr")
    assert "abnormal 2 of 2 1.00 –" in page.find("tr")
    # of ten discs with a probability of 0.9, nine are right
    plots = page.find("svg", **{"class": "square"})
    assert [one.endswith("10 answers, probability 0.90, right 0.90") for one in plots] == [True]
    assert "C4-C5 0.33" in page.find("div", **{"class": "level"})
    rows = page.find("tr")
    assert {"commit 0123abc, changed since", "spinevl 0.2", "peft not installed"} <= set(rows)
    assert {"cohort two", "labelled patients 2", "sha256 of labels fee1"} <= set(rows)
    assert page.find("pre") == ["seed: 0"]


def test_what_is_below_a_baseline_is_flagged(tmp_path: Path, score: Score) -> None:
    flags = {"zjppt": "level_majority", "partial_score": "all_majority"}
    page = report(tmp_path, replace(score, below_baseline=flags))
    flagged = page.find("span", **{"class": "flag"})
    assert flagged == ["below all majority", "below level majority"]
    titles = [one for one in page.find("h3") if "below" in one]
    assert titles == [
        "Partial score below all majority",
        f"{TASKS['zjppt'].title} · macro-F1 below level majority",
    ]
    told = f"{TASKS['zjppt'].title} (level majority); the total (all majority)"
    assert any(told in one for one in page.find("p", **{"class": "bad"}))
    assert told in (tmp_path / "report.md").read_text()
    assert report(tmp_path, score).find("span", **{"class": "flag"}) == []


def test_the_gallery_can_be_filtered_and_enlarged(tmp_path: Path, score: Score) -> None:
    page = report(tmp_path, score)
    rows = [found for tag, found, _ in page.elements if tag == "tr" and "data-task" in found]
    assert len(rows) == 2 * 6
    assert rows[0] == {"data-task": "zjppt", "data-level": "C4-C5", "data-answer": "wrong"}
    assert sum(one["data-answer"] == "right" for one in rows) == 11
    values = [found.get("value", "") for tag, found, _ in page.elements if tag == "option"]
    assert {"qd", "zjppt", "wrong", "right", "unparsed"} <= set(values)
    assert {*DISCS} <= set(page.find("option"))
    buttons = [found["aria-label"] for tag, found, _ in page.elements if tag == "button"]
    assert buttons == ["b, sagittal slice 6", "a, sagittal slice 6"]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, score: Score) -> None:
    page = report(tmp_path, score)
    for _, found, _ in page.elements:
        assert not set(found) & {"href", "srcset", "action"}
        assert str(found.get("src") or "data:").startswith("data:")
    (policy,) = (f["content"] for _, f, _ in page.elements if "http-equiv" in f)
    assert str(policy).startswith("default-src 'none'")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize(
    ("synthetic", "ids", "expected"),
    [
        (False, "ab", [CLINICAL, PRIVACY]),
        (True, ("phantom-00001", "phantom-test-00002"), [PHANTOM, CLINICAL]),
        (True, ("phantom-00001", "0017"), [PHANTOM, CLINICAL, IDS]),
    ],
)
def test_what_the_page_warns_of(
    tmp_path: Path, score: Score, synthetic: bool, ids: tuple[str, str], expected: list[str]
) -> None:
    names = dict(zip("ab", ids, strict=True))
    given = [replace(one, id=names[one.id]) for one in predictions("C2-C3")]
    page = report(tmp_path, replace(score, synthetic=synthetic), predictions=given)
    assert page.find("span", **{"class": "warn"}) == expected


def test_text_of_files_is_only_text(tmp_path: Path, score: Score) -> None:
    bad = '"><script>alert(1)</script><img src=http://x.org/a.png>|`$x$`\n# not a heading'
    task = replace(TASKS["qd"], title=bad, choices=(f"A.{bad}", "B.two", f"C.{bad}"))
    people = [replace(one, id=f"{bad}{one.id}") for one in PATIENTS]
    given = [replace(one, id=f"{bad}{one.id}") for one in predictions("C2-C3") if one.task == "qd"]
    given = [replace(given[0], choice=None, text=bad), *given[1:]]
    scored = evaluate(people, given, tasks={"qd": task}, n_resamples=2)
    page = report(
        tmp_path,
        replace(scored, notes={**scored.notes, bad: bad}, selection=bad),
        predictions=given,
        tasks={"qd": task},
        pictures={people[0].id: [ImageRef(bad, plane="axial", level=bad)]},
        config=bad,
        provenance={"git_commit": bad, "git_dirty": False, "versions": {bad: bad}},
        fingerprint={bad: [bad], "inputs": {bad: bad}},
        cohort=bad,
    )
    assert len(page.find("script")) == 1
    assert {tag for tag, found, _ in page.elements if tag == "img" and found.get("src")} == set()
    assert page.find("h1") == [" ".join(bad.split())]
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "<script>" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [text.splitlines()[0]]
    assert page.find("p", **{"class": "small bad"})[-1].startswith("1 ")  # one was not parsed


def test_what_cannot_be_printed_is_shown_as_its_code(tmp_path: Path, score: Score) -> None:
    page = report(tmp_path, score, cohort="a\ud800\x1b[2Jb", config="x: \u202e\ny: 1")
    assert page.find("h1") == ["a\\ud800\\x1b[2Jb"]
    assert "x: \\u202e\ny: 1</pre>" in (tmp_path / "report.html").read_text("utf-8")


def test_the_training_is_drawn_with_its_warmup(tmp_path: Path, score: Score) -> None:
    rows = ["step,loss,loss/answer,loss/auxiliary,dev/score"]
    rows += ["10,2,,2,", "20,3,2,1,", "20,3,2,1,0.5"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    (tmp_path / "train.json").write_text('{"warmup_steps": 14}')
    page = report(tmp_path, score, curve=tmp_path / "metrics.csv")
    names = [f["aria-label"] for tag, f, _ in page.elements if f.get("class") == "chart training"]
    assert names == ["Dev score by optimizer step", "Training loss by optimizer step"]
    texts = page.find("text")
    assert {"optimizer step", "dev score", "training loss", "0.500"} <= set(texts)
    assert len(page.find("rect", **{"class": "phase"})) == 2
    assert re.search(r"step 14\b", " ".join(page.find("p")))
    assert page.find("h2")[-5:] == [
        "vertebra boxes",
        "Training",
        "Patients, worst errors first",
        "Data",
        "Versions",
    ]


def test_a_model_that_always_says_the_same_is_told_of() -> None:
    for wrong, told in (("nowhere", "normal"), ("C4-C5", None)):
        scored = evaluate(PATIENTS, predictions(wrong), tasks=TASKS, baselines=[], n_resamples=2)
        assert classes(scored.tasks["zjppt"], TASKS["zjppt"])["only_answer"] == told
        assert classes(scored.tasks["qd"], TASKS["qd"])["only_answer"] is None  # two answers


@pytest.mark.parametrize(("true", "told"), [((0, 1), True), ((0, 0), False)])
def test_the_same_answer_to_a_few_patients_is_told_of_where_their_truths_differ(
    true: tuple[int, int], told: bool
) -> None:
    task = TASKS["qd"]
    patients = [Patient(f"p{k}", {"qd": label}) for k, label in enumerate(true)]
    given = [Prediction(one.id, "qd", "", (6,), 0, None, task.choices[0]) for one in patients]
    scored = evaluate(patients, given, tasks={"qd": task}, baselines=[], n_resamples=2)
    found = classes(scored.tasks["qd"], task)["only_answer"]
    assert found == ("normal curvature" if told else None)


def test_too_few_patients_and_the_numbers_of_each_side_are_told(tmp_path: Path) -> None:
    task = TASKS["qd"]
    one = Patient("p1", {"qd": 0})
    given = [Prediction("p1", "qd", "", (6,), 0, None, task.choices[0])]
    scored = evaluate([one], given, tasks={"qd": task}, baselines=[], n_resamples=2)
    page = report(
        tmp_path, scored, predictions=[], tasks={"qd": task}, numbers={"train": 7, "dev": 1}
    )
    text = (tmp_path / "report.html").read_text()
    assert "95 % interval: none, since 1 patient is fewer than 10" in text
    assert "<td>train patients</td><td>7</td>" in text
    assert "<td>dev patients</td><td>1</td>" in text
    assert "1 patients" not in text
    assert page.find("h1")


def test_the_markdown_says_the_same_in_short(tmp_path: Path, score: Score) -> None:
    report(tmp_path, score)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith(f"# two patients\n\n{CLINICAL}\n\n2 patients; .\n")
    assert "- model minus level majority: +0.000, too few patients for an interval" in text
    assert "- model minus level majority, vertebra boxes: " in text
    assert as_markdown(rows(score, TASKS)) in text


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


def test_what_could_not_be_scored_is_no_zero(tmp_path: Path, score: Score) -> None:
    task = replace(score.tasks["qd"], value=None)
    unscored = replace(score, value=None, tasks={**score.tasks, "qd": task})
    assert write_metrics(unscored, {"qd": TASKS["qd"]}, out=tmp_path) is None
