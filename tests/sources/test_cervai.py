"""Bad input: one clear line a problem."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from spinevl.config.compose import compose
from spinevl.config.tasks import official_tasks
from spinevl.data.examples import patient_examples
from spinevl.data.prompt import check_line_breaks, check_templates
from spinevl.data.records import read_records, records_text
from spinevl.data.study import PatientStudy, open_study
from spinevl.data.study_spec import StudySpec
from spinevl.io.image_file import load_image
from spinevl.schema.box import Box
from spinevl.schema.cohort import Cohort, StudyRequest
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout
from spinevl.sources.cervai import CervAISource, read_boxes, read_labels, read_template

TASKS = official_tasks()
GRADED = {name: task for name, task in TASKS.items() if task.closed}
GOOD: dict[str, Any] = {"id": "a", "qd": 1, "sl": 1, "zjppt": [0] * 5, "zyzg": [0] * 11}
BOXES = {name: ["(10,10)(20,20)"] * 3 for name in ("C2", "C3", "C4", "C5", "C6", "C7")}


def problems(tmp_path: Path, content: Any) -> tuple[str, ...]:
    file = tmp_path / "labels.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_labels(file, tasks=GRADED, required=GRADED)
    assert all(str(file) in line and "\n" not in line for line in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qd": 3}, "qd: expected an integer 0 to 2, found 3"),
        ({"qd": True}, "qd: expected an integer 0 to 2, found True"),
        ({"sl": "1"}, "sl: expected an integer 0 to 1, found '1'"),
        ({"zjppt": [0, 0, 0, 9, 0]}, "zjppt C5-C6: expected an integer 0 to 3, found 9"),
        ({"zyzg": [0] * 10}, "zyzg: expected a list of 11 labels, found 10 values"),
        ({"id": "../a"}, "no plain folder name"),
        ({"id": 7}, "found an integer"),
        ({"id": ""}, "empty id"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (line,) = problems(tmp_path, [{**GOOD, **change}])
    assert said in line


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    lines = problems(tmp_path, [{**GOOD, "qd": 5}, GOOD, {**GOOD, "id": "b", "sl": None}, 3])
    assert len(lines) == 4  # range, repeated id, null, no object


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1,", '"x"'])
def test_no_list_of_records_is_one_line(tmp_path: Path, content: str) -> None:
    assert len(problems(tmp_path, content)) == 1


def test_a_misspelt_key_is_suggested(tmp_path: Path) -> None:
    entry = {key: value for key, value in GOOD.items() if key != "zjppt"}
    lines = problems(tmp_path, [{**entry, "zjptt": [0] * 5}])
    assert any("zjptt" in line and "misspell" in line for line in lines)


def test_columns_of_ones_own_are_compared_with_the_tasks_once(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    own = {f"column {k}": k for k in range(20)}
    file.write_text(json.dumps([{**GOOD, "id": str(k), **own} for k in range(5000)]))
    begun = time.perf_counter()
    assert len(read_labels(file, tasks=GRADED, required=GRADED)) == 5000
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(20,10)(10,20)", "x1 < x2"),
        ("(10,10)(20,300)", "corners within 0 to 224"),
        ("10,10,20,20", '"(x1,y1)(x2,y2)"'),
    ],
)
def test_a_wrong_box_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps([{"id": "a", **BOXES, "C4": ["(1,1)(9,9)", text, "(1,1)(9,9)"]}]))
    with pytest.raises(UserError) as caught:
        read_boxes(file)
    (line,) = caught.value.problems
    assert "patient a C4 slice 6" in line
    assert said in line


def write_patient(root: Path, name: str, *, sides: int = 224) -> Path:
    for image in ["sag/6", *(f"tra/{k}" for k in ("2-3", "3-4", "4-5", "5-6", "6-7"))]:
        path = root / name / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((sides, sides), 9, dtype=np.uint8)).save(path)
    return root / name


def load(tmp_path: Path, **options: Any) -> Any:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([GOOD, {**GOOD, "id": "b"}]))
    source = CervAISource(labels=str(labels), train_images=str(tmp_path / "images"), **options)
    tasks = {name: TASKS[name] for name in ("qd", "zjppt")}
    return source.load(StudyRequest(tasks, TASKS, [6], {"train"}, lambda: tmp_path))


def test_missing_and_truncated_images_are_named_or_skipped(tmp_path: Path) -> None:
    write_patient(tmp_path / "images", "a")
    broken = write_patient(tmp_path / "images", "b") / "tra/3-4.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    (tmp_path / "images/b/sag/6.png").unlink()
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert len(caught.value.problems) == 2
    assert "3-4.png" in " ".join(caught.value.problems)
    cohort = load(tmp_path, missing_images="skip")
    assert [patient.id for patient in cohort.patients] == ["a"]
    assert cohort.skipped == ("b",)
    assert len(load(tmp_path, missing_images="ignore").patients) == 2


def test_other_modes_and_sizes_are_refused(tmp_path: Path) -> None:
    grey = np.full((224, 224), 9, dtype=np.uint8)
    good = tmp_path / "rgb.png"
    Image.fromarray(np.stack([grey] * 3, -1)).save(good)
    assert load_image(good, side_px=224).shape == (224, 224)
    cases = {
        "coloured": (Image.fromarray(np.stack([grey, grey, grey + 1], -1)), "mode RGB"),
        "deep": (Image.fromarray(grey.astype(np.uint16) * 100), "16-bit"),
        "small": (Image.fromarray(grey[:100]), "224 x 100"),
    }
    for name, (image, said) in cases.items():
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(UserError, match=said):
            load_image(tmp_path / f"{name}.png", side_px=224)


def test_templates_are_checked() -> None:
    with pytest.raises(UserError) as caught:
        check_templates(
            {"qd": "[image]What? [optoins]", "zjppt": "[image]Disc [label]?"},
            {name: TASKS[name] for name in ("qd", "zjppt", "sl")},
            where="mine.json",
        )
    text = " ".join(caught.value.problems)
    assert "[optoins]" in text
    with pytest.raises(UserError, match=r"task qd: expected a line break, found a backslash and"):
        check_line_breaks({"qd": r"[image]\nWhat?"}, where="prompts")
    check_line_breaks({"qd": "[image]\nWhat?"}, where="prompts")
    assert "one literal <image>" in text
    assert "task sl" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"id": "a", "qd": 0, "qd": 1}]', "key 'qd' of id 'a' stands twice"),
        ('[{"id": "\\ud800"}]', "surrogate"),
        (json.dumps([{"id": "x" * 300}]), "too long"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_json_lets_through_is_refused(tmp_path: Path, content: str, said: str) -> None:
    assert said in problems(tmp_path, content)[0]


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps([GOOD]), encoding="utf-8-sig")
    assert read_labels(file, tasks=GRADED)[0].labels["zjppt"] == (0,) * 5


def test_boxes_of_a_vertebra_that_is_not_asked_are_named(tmp_path: Path) -> None:
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps([{"id": "a", **BOXES, "C8": BOXES["C7"], "C2": ["(1,1)(9,9)"] * 4}]))
    with pytest.raises(UserError) as caught:
        read_boxes(file)
    first, second = caught.value.problems
    assert "'C8'" in first
    assert "C2: expected 3 boxes" in second


def test_a_template_is_of_one_kind(tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    file.write_text(json.dumps([{"id": "b"}, {"id": "a"}]))
    assert [one.id for one in read_template(file, tasks=GRADED)] == ["b", "a"]
    file.write_text(json.dumps([GOOD, {"id": "b", "qd": 0, "sl": 0, "zjppt": [0] * 5}]))
    with pytest.raises(UserError, match="patient b: expected key 'zyzg', found none"):
        read_template(file, tasks=GRADED)


def test_every_cut_of_an_image_is_found(tmp_path: Path) -> None:
    file = tmp_path / "whole.png"
    noise = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    content = file.read_bytes()
    for length in (0, 5, 20, 60, len(content) // 2, len(content) - 13, len(content) - 8):
        cut = tmp_path / "cut.png"
        cut.write_bytes(content[:length])
        with pytest.raises(UserError, match="no whole image"):
            load_image(cut, side_px=224)


def test_test_patients_are_folders_in_natural_order_and_never_skipped(tmp_path: Path) -> None:
    for name in ("case-10", "case-2", ".hidden"):
        write_patient(tmp_path / "images", name)

    def load_test(**options: Any) -> Any:
        return CervAISource(test_images=str(tmp_path / "images"), **options).load(
            StudyRequest({"qd": TASKS["qd"]}, TASKS, [6], {"test"}, lambda: tmp_path)
        )

    assert [one.id for one in load_test().test] == ["case-2", "case-10"]
    (tmp_path / "images/case-2/sag/6.png").unlink()
    with pytest.raises(UserError, match=r"case-2/sag/6\.png") as caught:
        load_test(missing_images="skip")
    assert "missing_images" not in str(caught.value)
    (tmp_path / "images/case-2").rename(tmp_path / "images/case-2 ")
    with pytest.raises(UserError, match=r"images: 'case-2 ': expected an id: .*; rename it$"):
        load_test()
    (tmp_path / "images/case-2 ").rename(tmp_path / "elsewhere")
    (tmp_path / "images/case-2").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^\S*images/case-2: expected a folder .* a link to a"):
        load_test()


def test_a_label_that_no_record_has_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"

    def told(records: list[dict[str, Any]], required: Any, **options: Any) -> list[str]:
        file.write_text(json.dumps(records))
        with pytest.raises(UserError) as caught:
            read_labels(file, tasks=GRADED, required=required, **options)
        return [one.removeprefix(f"{file}: ") for one in caught.value.problems]

    many = [{"id": f"p{k}", "qd": 1, "S1": 0} for k in range(30)]
    asked = ("positioning", "qd", "sl", "zjppt")
    assert told(many, asked, may_leave_out=True) == [
        f"expected key {name!r}, found none in any of 30 records; add it, or leave the task out: "
        "'task=[positioning,qd]'"
        for name in ("sl", "zjppt")
    ]
    assert told(many, asked)[0].endswith("; add it")
    assert told(many, ["sl"], may_leave_out=True)[0].endswith("; add it")
    misspelt = [{"id": "a", "qds": 1, "sl": 0}, {"id": "b", "qds": 2, "sl": 0}]
    assert told(misspelt, ["qd", "sl"], may_leave_out=True) == [
        "expected key 'qd', found none in any of 2 records; did you misspell it as 'qds'?"
    ]
    one = [{"id": "a", "qd": 1, "sl": 0}, {"id": "b", "qd": 2}]
    assert told(one, ["qd", "sl"]) == ["patient b: expected key 'sl', found none; add it"]
    assert told(one[1:], ["sl"]) == ["patient b: expected key 'sl', found none; add it"]


def test_boxes_and_labels_hold_the_same_patients_where_boxes_are_asked(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([GOOD, {**GOOD, "id": "b"}]))
    (tmp_path / "boxes.json").write_text(json.dumps([{"id": "c", **BOXES}, {"id": "b", **BOXES}]))
    source = CervAISource(
        labels=str(tmp_path / "labels.json"),
        boxes=str(tmp_path / "boxes.json"),
        train_images="images",
        missing_images="ignore",
    )

    def load_with(*names: str) -> Any:
        return source.load(
            StudyRequest(
                {name: TASKS[name] for name in names}, TASKS, [6], {"train"}, lambda: tmp_path
            )
        )

    with pytest.raises(UserError) as caught:
        load_with("positioning")
    assert [line.split(": ")[1] for line in caught.value.problems] == ["patient a", "patient c"]
    assert [one.boxes is None for one in load_with("qd").patients] == [True, False]


def test_sagittal_images_stand_before_the_axial_one() -> None:
    with pytest.raises(UserError) as caught:
        check_templates({"zjppt": "<image>\n[image]Disc?"}, {"zjppt": TASKS["zjppt"]}, where="x")
    first, second = caught.value.problems
    assert "[image] before <image>" in first
    assert "[label]" in second


def write_other_hospital(folder: Path) -> dict[str, Any]:
    """Two patients with slices 3 and 4 of their own size, named in another way; its data keys."""
    rng = np.random.default_rng(0)
    for patient in ("p1", "p2"):
        names = [f"{patient}_sag_{number}.png" for number in (3, 4)]
        names += [f"{patient}_{task}.png" for task in GRADED["zjppt"].levels]
        for number, name in enumerate(names):
            (folder / "T2").mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (40, 50 + number), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "T2" / name)
    labels = [{**GOOD, "id": "p1"}, {**GOOD, "id": "p2", "zjppt": [1, 2, 3, 0, 1]}]
    (folder / "labels.json").write_text(json.dumps(labels))
    boxes = {vertebra: ["(1,2)(30,20)", "(3,4)(49,39)"] for vertebra in BOXES}
    (folder / "boxes.json").write_text(json.dumps([{"id": p, **boxes} for p in ("p1", "p2")]))
    return {
        "labels": str(folder / "labels.json"),
        "boxes": str(folder / "boxes.json"),
        "train_images": str(folder),
        "slices": [3, 4],
        "sagittal": "T2/{id}_sag_{slice}.png",
        "axial": "T2/{id}_{level}.png",
        "side_px": None,
    }


def test_another_hospitals_study_is_read_into_examples(tmp_path: Path) -> None:
    keys = write_other_hospital(tmp_path)
    names = ("zjppt", "positioning")
    nodes: Any = OmegaConf.to_container(compose("build", ["task=[zjppt,positioning]"]).task)
    spec = StudySpec(
        data={"_target_": "spinevl.sources.cervai.CervAISource", **keys},
        split={"_target_": "spinevl.data.split.HeadSplit", "n_train": 1},
        task=nodes,
        prompts={
            "templates": {"zjppt": "[image]<image>\n[label]?", "positioning": "[image][label]?"}
        },
        sag_image=[4, 3],
        sag_type="joint",
        cache_dir=str(tmp_path / "cache"),
    )
    study = open_study(spec, ("train", "dev"))
    assert isinstance(study, PatientStudy)
    closed = study.task_examples(study.tasks["zjppt"], "dev")
    assert [(one.key.patient, one.key.level, one.label) for one in closed] == [
        ("p2", level, label)
        for level, label in zip(GRADED["zjppt"].levels, [1, 2, 3, 0, 1], strict=True)
    ]
    assert [Path(image.path).name for image in closed[1].images] == [
        "p2_sag_4.png",
        "p2_sag_3.png",
        "p2_C3-C4.png",
    ]
    assert closed[1].slices == (4, 3)
    assert study.decode(closed[1].images[0]).shape == (40, 51)
    placed = study.task_examples(study.tasks["positioning"], "train")
    assert [(one.slices, one.box) for one in placed[:2]] == [
        ((4,), Box(3, 4, 49, 39)),  # the box file lists slice 3 first
        ((3,), Box(1, 2, 30, 20)),
    ]
    assert set(study.tasks) == set(names)
    with pytest.raises(UserError, match=r"sag_image has no slice 6; choose from 3, 4"):
        open_study(replace(spec, sag_image=[4, 6]), ("train", "dev"))
    (tmp_path / "T2/p1_sag_4.png").unlink()
    with pytest.raises(UserError, match=r"T2/p1_sag_4\.png"):
        open_study(spec, ("train", "dev"))


def test_record_files_of_another_hospital_give_their_examples_back(tmp_path: Path) -> None:
    source = CervAISource(**write_other_hospital(tmp_path))
    tasks = {"zjppt": TASKS["zjppt"]}
    cohort = source.load(StudyRequest(tasks, TASKS, [3, 4], {"train"}, lambda: tmp_path))
    examples = patient_examples(
        cohort.patients,
        task=TASKS["zjppt"],
        template="[image]<image>\n[label]?",
        sag_image=[3, 4],
        separate=True,
        with_answers=True,
    )
    file = tmp_path / "records.json"
    file.write_text(records_text(examples, with_answer_turn=True))
    assert read_records(file, task=TASKS["zjppt"], layout=cohort.layout) == examples
    with pytest.raises(UserError, match=r"records\.json: record 1 .*found .*p1_sag_3\.png"):
        read_records(file, task=TASKS["zjppt"], layout=StudyLayout())


def load_test(tmp_path: Path, truth: Any, template: Any = None, **options: Any) -> Cohort:
    """The test patients whose label file holds ``truth``."""
    for name, content in (("truth", truth), ("template", template)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    source = CervAISource(
        test_images=str(tmp_path / "images"),
        test_labels=str(tmp_path / "template.json") if template else None,
        test_truth=str(tmp_path / "truth.json"),
        missing_images="ignore",
        **options,
    )
    asked = ("qd", "zjppt", *(["positioning"] if options else []))
    tasks = {name: TASKS[name] for name in asked}
    return source.load(StudyRequest(tasks, TASKS, [6], {"test"}, tmp_path))


ZEROS = {**GOOD, "qd": 0, "sl": 0}


def test_the_truth_of_the_test_patients_stands_in_the_order_of_the_template(tmp_path: Path) -> None:
    truth = [{**GOOD, "id": one, "qd": label} for one, label in (("a", 1), ("b", 2))]
    template = [{**ZEROS, "id": one} for one in "ba"]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"id": one, **BOXES} for one in "ab"]))
    cohort = load_test(tmp_path, truth, template, test_boxes=str(boxes))
    assert cohort.test_has_truth
    assert [(one.id, one.labels["qd"]) for one in cohort.test] == [("b", 2), ("a", 1)]
    assert all(one.boxes and one.boxes["C2"][6] == Box(10, 10, 20, 20) for one in cohort.test)
    assert set(cohort.sources) == {"test_labels", "test_truth", "test_boxes"}
    without = load_test(tmp_path, truth)
    assert [one.id for one in without.test] == ["a", "b"]
    assert without.test[0].boxes is None


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ([{**GOOD, "id": "a"}], ["patient b: expected labels, found none"]),
        ([{**GOOD, "id": one} for one in "abc"], ["patient c", "template.json"]),
        ([{**GOOD, "id": "a"}, {"id": "b", "qd": 1}], ["patient b", "'zjppt'"]),
        ([{**ZEROS, "id": one} for one in "ab"], ["0 everywhere"]),
    ],
)
def test_a_truth_that_is_not_that_of_the_template_is_refused(
    tmp_path: Path, truth: Any, said: list[str]
) -> None:
    template = [{**ZEROS, "id": one} for one in "ba"]
    with pytest.raises(UserError) as caught:
        load_test(tmp_path, truth, template)
    (line,) = caught.value.problems
    assert "truth.json" in line
    assert all(one in line for one in said)


@pytest.mark.parametrize("template", [None, [{"id": "b"}, {"id": "a"}]])
def test_healthy_test_patients_are_taken_with_a_warning(
    tmp_path: Path, template: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = load_test(tmp_path, [{**ZEROS, "id": one} for one in "ab"], template)
    assert cohort.test_has_truth
    assert {one.labels["qd"] for one in cohort.test} == {0}
    assert f"{tmp_path}/truth.json: 0 everywhere" in caplog.text


def test_what_lies_beside_the_patients_that_are_asked_about_is_let_be(tmp_path: Path) -> None:
    for name in ("p1", "x:y", "caf\u00e9", "cafe\u0301"):
        write_patient(tmp_path / "images", name)
    source = CervAISource(test_images=str(tmp_path / "images"))
    request = StudyRequest({"qd": TASKS["qd"]}, TASKS, [6], {"test"}, lambda: tmp_path)
    assert [one.id for one in source.load(request, only=["p1"]).test] == ["p1"]
    for only, said in ((None, "x:y"), (["x:y"], "x:y"), (["caf\u00e9"], "each id once")):
        with pytest.raises(UserError, match=said):
            source.load(request, only=only)


def test_the_boxes_of_the_test_patients_are_those_of_their_labels(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"id": one, **BOXES} for one in "bc"]))
    with pytest.raises(UserError) as caught:
        load_test(tmp_path, [{**GOOD, "id": one} for one in "ab"], test_boxes=str(boxes))
    (line,) = caught.value.problems
    assert "patient c" in line
    with pytest.raises(ValueError, match="test_boxes: given without test_truth"):
        CervAISource(test_boxes=str(boxes))


@pytest.mark.parametrize("template", [None, [{"id": one} for one in "cba"]])
def test_test_patients_without_boxes_are_told_and_kept(
    tmp_path: Path, template: Any, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"id": "b", **BOXES}]))
    truth = [{**GOOD, "id": one} for one in "abc"]
    cohort = load_test(tmp_path, truth, template, test_boxes=str(boxes))
    assert {one.id: one.boxes is not None for one in cohort.test} == {
        **dict.fromkeys("ac", False),
        "b": True,
    }
    assert "no boxes of 2 of the 3 patients, first a" in caplog.text


def test_images_in_another_layout_are_a_line_for_each_pattern(tmp_path: Path) -> None:
    for one in "ab":
        folder = write_patient(tmp_path / "images", one)
        for path in [*folder.rglob("*.png")]:
            path.rename(folder / f"{path.parent.name}_{path.name}")
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    for line, plane, wanted, there in zip(
        caught.value.problems,
        ("sagittal", "axial"),
        ("a/sag/6.png", "a/tra/2-3.png"),
        ("a/sag_6.png", "a/tra_2-3.png"),
        strict=True,
    ):
        assert f"data.{plane}" in line
        assert f"such as {wanted}" in line
        assert f"such as {there}" in line


@pytest.mark.parametrize("missing", ["error", "skip"])
def test_one_pattern_that_matches_nothing_is_one_line(tmp_path: Path, missing: str) -> None:
    for one in "ab":
        folder = write_patient(tmp_path / "images", one)
        (folder / "sag/6.png").rename(folder / "sag/006.png")
        (folder / "sag/6.jpg").touch()
    with pytest.raises(UserError) as caught:
        load(tmp_path, missing_images=missing)
    (line,) = caught.value.problems
    assert "data.sagittal" in line
    assert re.search(r"such as a/sag/6\.png, found .*such as a/sag/(006\.png|6\.jpg)", line)
    for one in "ab":
        (tmp_path / "images" / one / "sag/6.jpg").unlink()
    cohort = load(tmp_path, missing_images=missing, sagittal="{id}/sag/{slice:03}.png")
    assert [Path(one.images[0].path).name for one in cohort.patients] == ["006.png"] * 2


def test_images_are_shown_to_whoever_watches_once(tmp_path: Path) -> None:
    for one in "ab":
        write_patient(tmp_path / "images", one)
    (tmp_path / "labels.json").write_text(json.dumps([GOOD, {**GOOD, "id": "b"}]))
    labels, images = str(tmp_path / "labels.json"), str(tmp_path / "images")
    seen: list[tuple[str, tuple[int, ...]]] = []
    request = StudyRequest(
        *({"qd": TASKS["qd"]}, TASKS, [6], {"train"}, lambda: tmp_path),
        watch=lambda image, pixels: seen.append((image.patient, pixels.shape)),
    )
    CervAISource(labels=labels, train_images=images).load(request)
    assert sorted(seen) == [("a", (224, 224)), ("b", (224, 224))]


def test_one_patient_is_one_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for one in "abc":
        write_patient(tmp_path / "images", one)
    load(tmp_path)
    assert "images: 1 patient has images and no labels, and is left out: c" in caplog.text
