"""``spinevl doctor``: every problem at once, one line each; submissions against their template."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import spinevl
from PIL import Image

from spinevl.cli.main import main
from spinevl.io.image_file import load_image
from spinevl.sources import cervai

BLANK: dict[str, Any] = {"qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}
TEMPLATE: list[dict[str, Any]] = [{"id": name, **BLANK} for name in ("p10", "p2", "p3")]


def doctor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return spinevl("doctor", "data=cervai", *arguments, cwd=cwd)


def check(tmp_path: Path, answers: list[Any]) -> subprocess.CompletedProcess[str]:
    (tmp_path / "template.json").write_text(json.dumps(TEMPLATE))
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    return doctor("answers=answers.json", "data.test_labels=template.json", cwd=tmp_path)


def test_a_right_submission_passes(tmp_path: Path) -> None:
    done = check(tmp_path, TEMPLATE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok  answers.json: 3 patients")


def test_all_that_is_wrong_with_a_submission_is_listed(tmp_path: Path) -> None:
    answers = copy.deepcopy(TEMPLATE)
    answers[0]["qd"] = 7
    answers[1]["zyzg"] = [0] * 3
    answers[2]["id"] = "p4"
    done = check(tmp_path, answers)
    lines = done.stderr.splitlines()
    assert done.returncode != 0
    assert len(lines) == 4, done.stderr  # range, length, a patient missing, another surplus
    for line, said in zip(lines, ("p10 qd", "p2 zyzg", "p3", "p4"), strict=True):
        assert said in line


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([TEMPLATE[1], TEMPLATE[0], TEMPLATE[2]], "record 1: expected patient p10"),
        (
            [{**one, "age": 3} for one in TEMPLATE],
            "patient p10: expected only the keys id, qd, sl, zjppt, zyzg, found also age",
        ),
    ],
)
def test_order_and_keys_of_a_submission(tmp_path: Path, answers: list[Any], said: str) -> None:
    done = check(tmp_path, answers)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_problems_of_every_input_are_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([{"id": "a", **BLANK, "qd": 9}]))
    (tmp_path / "boxes.json").write_text(
        json.dumps([{"id": "a", **{f"C{k}": ["(1,1)(9,9)"] * 3 for k in range(2, 9)}}])
    )
    (tmp_path / "template.json").write_text(json.dumps([{"id": "../t", **BLANK}]))
    done = doctor(
        "data.labels=labels.json",
        "data.boxes=boxes.json",
        "data.train_images=nowhere",
        "data.test_labels=template.json",
        "data.test_images=nowhere",
        cwd=tmp_path,
    )
    lines = done.stderr.splitlines()
    assert done.returncode != 0
    assert len(lines) == 4, done.stderr
    said = ("labels.json: patient a qd", "boxes.json: patient a", "template.json", "nowhere")
    for line, one in zip(lines, said, strict=True):
        assert one in line


def test_images_that_the_encoder_does_not_take_are_named_before_a_training(tmp_path: Path) -> None:
    people = [{"id": f"p{k}", **BLANK} for k in range(4)]
    (tmp_path / "labels.json").write_text(json.dumps(people))
    for number, one in enumerate(people):
        file = tmp_path / f"images/{one['id']}/sag/6.png"
        file.parent.mkdir(parents=True)
        Image.new("L", (224, 200 if number == 2 else 224), 9).save(file)
    words = [
        *("data.labels=labels.json", "data.train_images=images", "data.side_px=null"),
        *("task=[qd]", "split=head", "split.n_train=3"),
    ]
    done = doctor(*words, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "p2/sag/6.png: encoder.image_size=224: an image is 224 x 200" in line


@pytest.mark.parametrize("side", ["224", "null"])
def test_each_image_is_decoded_once_and_no_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    """But for one of train and one of dev, which show how much memory a step takes."""
    monkeypatch.chdir(tmp_path)
    people = [{"id": f"p{k}", **BLANK} for k in range(12)]
    (tmp_path / "labels.json").write_text(json.dumps(people))
    for number, one in enumerate(people):
        file = tmp_path / f"images/{one['id']}/sag/6.png"
        file.parent.mkdir(parents=True)
        shades = np.random.default_rng(number).integers(0, 255, (224, 224), np.uint8)
        Image.fromarray(shades).save(file)
    shutil.copy("images/p0/sag/6.png", "images/p3/sag/6.png")
    decoded: Counter[str] = Counter()

    def counting(path: str, **options: Any) -> np.ndarray:
        decoded[Path(path).parts[-3]] += 1
        return load_image(path, **options)

    monkeypatch.setattr(cervai, "load_image", counting)
    words = ["data=cervai", "data.labels=labels.json", "data.train_images=images"]
    words.append(f"data.side_px={side}")
    assert main(["doctor", *words, "task=[qd]", "split=head", "split.n_train=9"]) == 0
    out = capsys.readouterr().out
    assert "the same image" in out
    assert "epochs of 9 questions, less than a minute on" in out
    assert sorted(decoded.values()) == [*[1] * (len(people) - 2), 2, 2]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["images", "labels.json"]
