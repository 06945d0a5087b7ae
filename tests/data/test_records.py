"""Record files against the challenge builder's own, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.tasks import official_tasks
from spinevl.data.examples import patient_examples
from spinevl.data.prompt import check_templates, read_templates
from spinevl.data.records import records_text
from spinevl.data.split import HeadSplit
from spinevl.schema.cohort import StudyRequest
from spinevl.sources.cervai import CervAISource

CASES = (
    "readme1_train_qd_sl_pos_567sep",
    "readme2_train_zjppt_zyzg_6",
    "readme3_dev_four_6",
    "readme4_test_four_6",
    "build_sh_both_qd_sl_567sep",
    "all5_both_567_joint",
    "all5_both_6_suffix",
)


def texts(shared: Path, args: dict[str, str]) -> dict[str, str]:
    """What we write for the arguments of the challenge's builder: file name -> text."""
    every = official_tasks()
    names = json.loads(args["task_type"])
    tasks = {name: every[name] for name in names}
    templates = read_templates(shared / "cervai/templates.json")
    check_templates(templates, tasks, where="templates.json")
    source = CervAISource(
        labels=str(shared / "cervai/labels_train.json"),
        boxes=str(shared / "cervai/boxes_train.json"),
        test_labels=str(shared / "cervai/submission_template.json"),
        train_images=args["train_images_path"],
        test_images=args["test_images_path"],
        missing_images="ignore",
    )
    cohort = source.load(
        StudyRequest(tasks, every, json.loads(args["sag_image"]), {"train", "dev", "test"}, Path)
    )
    split = HeadSplit(n_train=320).split(cohort.patients, every)
    sides = {"train": split.train, "dev": split.dev, "test": cohort.test}
    wanted = {"both": ("train", "dev")}.get(args["type_dataset"], (args["type_dataset"],))
    suffix = f"_{args['suffix']}" if args["suffix"] else ""
    return {
        f"{name}_{side}{suffix}.json": records_text(
            patient_examples(
                sides[side],
                task=task,
                template=templates[name],
                sag_image=json.loads(args["sag_image"]),
                separate=args["sag_type"] == "seperate",
                with_answers=True,
            ),
            with_answer_turn=side == "train",
        )
        for side in wanted
        for name, task in tasks.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_golden(shared: Path, name: str) -> None:
    manifest = json.loads((shared / "goldens/build/manifest.json").read_text())
    assert {case["name"] for case in manifest["cases"]} == set(CASES)
    case: dict[str, Any] = next(one for one in manifest["cases"] if one["name"] == name)
    written = texts(shared, case["args"])
    assert set(written) == set(case["outputs"])
    for file, golden in case["outputs"].items():
        digest = hashlib.sha256(written[file].encode()).hexdigest()
        assert digest == golden["sha256"], file
