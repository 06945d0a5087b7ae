"""Training on an earlier build: a checkpoint keeps what its records asked, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.record_files import write_records
from spinevl.data.study import PatientStudy, open_study, require_patients
from spinevl.data.study_spec import StudySpec
from spinevl.schema.errors import UserError

BOTH = ("train", "dev")
TOLD = ("sag_image=[7,5]", "sag_type=separate", "prompts=zh")


def opened(folder: Path, *overrides: str) -> PatientStudy:
    small = ["data.n_train=3", "data.n_dev=2", "data.n_test=1", "task=[qd,zjppt]"]
    config = plain(compose("run", [*small, f"cache_dir={folder}/cache", *overrides]))
    return require_patients(open_study(StudySpec.from_config(config), BOTH))


@pytest.fixture
def built(tmp_path: Path) -> PatientStudy:
    study = opened(tmp_path, *TOLD)
    provenance = {"config": {"sag_image": [7, 5], "sag_type": "separate"}}
    write_records(study, BOTH, out=tmp_path / "b", output_dir=None, provenance=provenance)
    return study


def refused(folder: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        opened(folder, f"records={folder}/b", *overrides)
    return caught.value.problems


def test_the_build_says_its_slices_and_prompts(built: PatientStudy, tmp_path: Path) -> None:
    study = opened(tmp_path, f"records={tmp_path}/b")
    told = study.description()
    same = ("sag_image", "sag_type", "templates", "task")
    assert {key: told[key] for key in same} == {key: built.description()[key] for key in same}
    assert (told["sag_image"], told["sag_type"]) == ([7, 5], "separate")
    assert {e.rounds for e in study.examples("train")} == {
        e.rounds for e in built.examples("train")
    }


def test_without_a_manifest_records_are_held_to_the_command(
    built: PatientStudy, tmp_path: Path
) -> None:
    (tmp_path / "b/manifest.json").unlink()
    opened(tmp_path, f"records={tmp_path}/b", *TOLD)
    for others, said in (
        (("sag_image=[7]",), "sag_image=[7]"),
        (("sag_type=joint",), "sag_type=joint"),
        (("prompts=en",), "the question"),
    ):
        first = refused(tmp_path, *TOLD, *others)[0]
        assert "b/qd_train.json: record phantom-" in first
        assert said in first


def test_a_manifest_of_another_build_says_nothing(built: PatientStudy, tmp_path: Path) -> None:
    file = tmp_path / "b/manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["outputs"]["qd_dev.json"]
    file.write_text(json.dumps(manifest))
    assert "sag_image=[6]" in refused(tmp_path)[0]


@pytest.mark.parametrize(
    "change", [{"config": 3}, {"outputs": []}, {"templates": {"qd": 5}}, {"templates": ["qd"]}]
)
def test_a_damaged_manifest_is_refused(
    built: PatientStudy, tmp_path: Path, change: dict[str, Any]
) -> None:
    file = tmp_path / "b/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert refused(tmp_path)


def test_a_record_in_other_words_is_named(built: PatientStudy, tmp_path: Path) -> None:
    file = tmp_path / "b/zjppt_dev.json"
    records = json.loads(file.read_text())
    records[1]["conversations"][0]["value"] += " Please."
    file.write_text(json.dumps(records))
    (line,) = refused(tmp_path)
    assert "zjppt_dev.json: record phantom-" in line
    assert "Please." in line
