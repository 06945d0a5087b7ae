"""Opening a study: what is refused before any image is read, and what is asked of whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.study import (
    ConversationStudy,
    PatientStudy,
    open_study,
    require_patients,
    shown_modality,
)
from spinevl.data.study_spec import StudySpec
from spinevl.schema.errors import UserError

SMALL = ["data.n_train=3", "data.n_dev=2", "data.n_test=2"]


def spec(folder: Path, *overrides: str) -> StudySpec:
    options = [f"cache_dir={folder}/cache", *overrides]
    return StudySpec.from_config(plain(compose("run", options)))


@pytest.mark.parametrize(
    ("sag_image", "said"), [("[4]", "slice 4"), ("[6,9]", "slice 9"), ("[3,6,8]", "slice 3, 8")]
)
def test_slices_that_the_data_lack_are_refused(tmp_path: Path, sag_image: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^sag_image has no {said}; choose from 5, 6, 7"):
        open_study(spec(tmp_path, *SMALL, f"sag_image={sag_image}"), None)


def test_options_that_python_code_tells_as_texts_are_known_or_refused(tmp_path: Path) -> None:
    for name in ("separate", "seperate"):  # as the challenge's scripts spell it
        told: Any = replace(spec(tmp_path, *SMALL, "sag_image=[6,5]"), sag_type=name)
        study = open_study(told, ("dev",))
        assert isinstance(study, PatientStudy)
        curvature = [one.slices for one in study.examples("dev") if one.key.task == "qd"]
        assert sorted(curvature) == [(5,), (5,), (6,), (6,)]
    for key, found in (("sag_type", "apart"), ("test_answers", "Upstream")):
        with pytest.raises(UserError, match=f"^{key}={found}: expected"):
            open_study(replace(told, **{key: found}), ("dev",))


def test_a_study_asks_all_tasks_of_each_subset(tmp_path: Path) -> None:
    study = open_study(spec(tmp_path, *SMALL, "task=[sl,zjppt]", "sag_image=[7,5]"), None)
    assert isinstance(study, PatientStudy)
    assert study.subsets == ("train", "dev", "test")
    for subset, count in (("train", 3), ("dev", 2), ("test", 2)):
        examples = study.examples(subset)
        assert len(study.patients(subset)) == count
        assert [one.key.task for one in examples] == ["sl"] * count + ["zjppt"] * 5 * count
        assert all(one.slices == (7, 5) for one in examples)
        assert all((one.truth is None) == (subset == "test") for one in examples)
        assert study.task_examples(study.tasks["sl"], subset) is not None
        assert study.decode(examples[-1].images[-1]).shape == (224, 224)
    assert require_patients(study) is study
    described = study.description()
    assert (described["sag_image"], described["sag_type"]) == ([7, 5], "joint")
    assert set(described["templates"]) == {"sl", "zjppt"}


def test_conversations_are_a_study_without_patients(tmp_path: Path) -> None:
    turns: list[dict[str, Any]] = [
        {"from": "human", "value": "What is MRI?"},
        {"from": "gpt", "value": "A scan."},
    ]
    (tmp_path / "a.json").write_text(json.dumps([{"id": "x", "conversations": turns}]))
    told = spec(tmp_path, "data=conversations", f"data.train={tmp_path}/a.json")
    assert shown_modality(told) is None
    study = open_study(told, ("train", "dev"))
    assert isinstance(study, ConversationStudy)
    assert [one.key.patient for one in study.examples("train")] == ["x"]
    assert study.examples("dev") == []
    assert list(study.fingerprint()["inputs"]) == ["train"]
    assert study.description()["data"]["train"] == f"{tmp_path}/a.json"
    with pytest.raises(UserError, match="choose data=cervai or data=phantom"):
        require_patients(study)


def test_patients_show_2d_images(tmp_path: Path) -> None:
    assert shown_modality(spec(tmp_path, *SMALL)) == "image"
