"""Bad input: one clear line a problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spinevl.config import official_tasks
from spinevl.data.cervai import CervAISource, read_boxes, read_labels
from spinevl.data.image import load_image
from spinevl.data.prompt import check_templates
from spinevl.schema.errors import UserError

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
        ({"id": 7}, "found a int"),
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
    return source.load(
        tasks=tasks, known_tasks=TASKS, sag_image=[6], subsets={"train"}, cache_dir=tmp_path
    )


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
    assert "one literal <image>" in text
    assert "task sl" in text
