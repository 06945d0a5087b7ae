"""A study as data: from a config, filled from a checkpoint, with folders that are found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.study_spec import StudySpec, with_absolute_paths
from spinevl.schema.errors import UserError
from spinevl.schema.study_layout import StudyLayout

STORED: dict[str, Any] = {
    "task": {"qd": {"_target_": "spinevl.schema.task.Task", "name": "qd"}},
    "templates": {"qd": "[image]Curve?"},
    "sag_image": [5, 7],
    "sag_type": "separate",
    "split": {"_target_": "spinevl.data.split.HeadSplit", "n_train": 3},
    "data": {"_target_": "spinevl.sources.cervai.CervAISource"},
}


def spec(verb: str, *overrides: str) -> StudySpec:
    return StudySpec.from_config(plain(compose(verb, list(overrides))))


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPINEVL_CACHE_DIR", str(tmp_path))
    assert spec("run").cache_folder() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPINEVL_CACHE_DIR")
    assert spec("run").cache_folder() == Path.home() / ".cache" / "spinevl"
    assert spec("run", "cache_dir='~/mine'").cache_folder() == Path.home() / "mine"


def test_what_the_command_says_goes_before_the_checkpoint() -> None:
    filled = spec("predict").filled(STORED)
    assert (filled.task, filled.sag_image, filled.sag_type) == (STORED["task"], [5, 7], "separate")
    assert filled.prompts == {"path": None, "templates": STORED["templates"]}
    filled.require(split=True)
    told = spec("predict", "sag_image=[6]", "sag_type=joint", "prompts=zh").filled(STORED)
    assert (told.sag_image, told.sag_type) == ([6], "joint")
    assert told.prompts is not None
    assert told.prompts["templates"] != STORED["templates"]
    assert told.data == STORED["data"]


def test_what_the_checkpoint_was_not_trained_on_is_told(caplog: pytest.LogCaptureFixture) -> None:
    spec("predict", "sag_image=[7]").filled(STORED)
    assert not caplog.messages
    spec("predict", "sag_image=[6,7,8]", "task=[qd,sl]").filled({**STORED, "task": {"sl": {}}})
    assert caplog.messages == [
        "task=[qd]: the checkpoint was trained on task=[sl] alone",
        "sag_image=[6,8]: the checkpoint was trained on sag_image=[5,7] alone",
    ]
    caplog.clear()
    for damaged in ({}, {**STORED, "sag_image": 5, "task": "qd"}):
        spec("predict", "sag_image=[6]", "task=[qd]").filled(damaged)
    assert not caplog.messages


def test_what_nobody_says_is_asked_for() -> None:
    message = r"^data, task, prompts, sag_image, sag_type, split: .* add data=cervai .*split=strat"
    with pytest.raises(UserError, match=message):
        spec("predict").filled({}).require(split=True)
    with pytest.raises(UserError, match=r"^data, task, prompts, sag_image, sag_type: "):
        spec("predict").filled({}).require(split=False)
    with pytest.raises(UserError, match=r"^split: "):
        spec("predict").filled({**STORED, "split": None}).require(split=True)


def test_files_of_a_node_are_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    node = {"labels": "a.json", "train_images": None, "sagittal": "{id}/{slice}.png", "seed": 1}
    assert with_absolute_paths(node) == {**node, "labels": str(tmp_path / "a.json")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sag_image": "6"}, "study.sag_image"),
        ({"sag_image": [6.5]}, "study.sag_image"),
        ({"sag_type": 3}, "study.sag_type"),
        ({"sag_type": "jont"}, "study.sag_type"),
        ({"data": "labels.json"}, "study.data"),
        ({"data": {**STORED["data"], "side_px": "x"}}, "study.data.side_px"),
        ({"split": {**STORED["split"], "n_train": "x"}}, "study.split.n_train"),
        ({"split": {"n_train": 3}}, "study.split._target_"),
        ({"task": ["qd"]}, "study.task"),
    ],
)
def test_a_checkpoint_with_values_of_another_type_is_refused(
    change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        spec("predict").filled({**STORED, **change})
    assert [one.split("=")[0].split(" ")[0] for one in caught.value.problems] == [said]


def test_files_that_only_the_checkpoint_names_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="spinevl")
    stored = {**STORED, "data": {**STORED["data"], "labels": "/else/where.json"}}
    spec("predict").filled(stored)
    (record,) = caplog.records
    assert "data.labels=/else/where.json" in record.getMessage()
    caplog.clear()
    spec("predict", "data=cervai", "data.test_images=mine").filled(stored)
    assert not caplog.records


def test_data_of_the_same_kind_inherit_the_layout_that_the_checkpoint_was_trained_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    words = ["data=cervai", "data.labels=x", "data.train_images=y", "data.side_px=160"]
    words += ["data.slices=[8,9]", "sag_image=[8]", "data.sagittal='s/{id}_{slice}.png'"]
    trained = spec("train", *words).data
    assert trained
    study = {"data": trained}
    asked = spec("predict", "data=cervai", "data.test_images=z").filled(study).data
    assert asked
    found = StudyLayout.told(asked)
    assert found == StudyLayout((8, 9), "s/{id}_{slice}.png", "{id}/tra/{number}.png", 160)
    assert (asked["test_images"], asked["labels"]) == ("z", None)
    assert "data.slices=[8,9]" in caplog.text
    # what the command says counts, though it is the default
    told = ["data.slices=[5,6,7]", "data.side_px=null", "data.sagittal='{id}/sag/{slice}.png'"]
    asked = spec("predict", "data=cervai", *told).filled(study).data
    assert asked
    assert StudyLayout.told(asked) == StudyLayout(side_px=None)
    # other kinds of data know nothing of it
    asked = spec("predict", "data=phantom").filled(study).data
    assert asked == spec("predict", "data=phantom").data
    asked = spec("predict", "data=cervai").filled({"data": {"_target_": "x.Y", "slices": [1]}}).data
    assert asked
    assert StudyLayout.told(asked) == StudyLayout()
    with pytest.raises(UserError, match=r"study\.data.*slices"):
        spec("predict", "data=cervai").filled({"data": {**trained, "slices": "nine"}})
