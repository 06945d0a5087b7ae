"""``spinevl.load(...).predict(...)``: files and arrays, and the table of the answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spinevl
from spinevl.config.compose import compose
from spinevl.inference.api import Predictions, SpineModel
from spinevl.models import packed
from spinevl.schema.box import Box
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.stages import train

SIDE = 64
DISCS = [f"C{k}-C{k + 1}" for k in range(2, 7)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on six patients with one sagittal slice and five axial ones each."""
    folder = tmp_path_factory.mktemp("api")
    rng = np.random.default_rng(0)
    labels: list[dict[str, Any]] = []
    for k in range(6):
        for name in ("sag/6.png", *(f"tra/{one.replace('C', '')}.png" for one in DISCS)):
            file = folder / "images" / f"p{k}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(file)
        labels.append({"id": f"p{k}", "qd": k % 3, "zjppt": [k % 4] * 5})
    (folder / "labels.json").write_text(json.dumps(labels))
    words = [
        "data=cervai",
        f"data.labels={folder}/labels.json",
        f"data.train_images={folder}/images",
        f"data.side_px={SIDE}",
        "data.slices=[6]",
        "task=[qd,zjppt]",
        "split=head",
        "trainer.max_epochs=1",
        "trainer.progress_bar=false",
        f"encoder.image_size={SIDE}",
        "encoder.dim=16",
        "encoder.widths=[8,8,16]",
        "llm.width=32",
        f"cache_dir={folder}/cache",
    ]
    train.main(compose("train", words), out=folder)
    return folder


def test_its_weights_are_packed_where_that_pays(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "onednn_is_faster", lambda: True)
    found = spinevl.load(work / "checkpoint", device="cpu").checkpoint.model
    assert any(isinstance(one, packed.PackedLinear) for one in found.llm.modules())
    assert type(found.llm.model.get_output_embeddings()) is torch.nn.Linear
    found = spinevl.load(work / "checkpoint", device="cpu", mode="generate").checkpoint.model
    assert type(found.llm.model.get_output_embeddings()) is packed.PackedLinear


@pytest.fixture(scope="module")
def model(work: Path) -> SpineModel:
    return spinevl.load(work / "checkpoint", device="cpu")


def arrays(folder: Path) -> dict[int | str, np.ndarray]:
    """The images of a patient's folder."""
    found: dict[int | str, np.ndarray] = {6: np.asarray(Image.open(folder / "sag/6.png"))}
    for one in DISCS:
        found[one] = np.asarray(Image.open(folder / "tra" / f"{one.replace('C', '')}.png"))
    return found


def test_arrays_are_answered_as_files_are(work: Path, model: SpineModel) -> None:
    from_files = model.predict(work / "images")
    given = {f"p{k}": arrays(work / "images" / f"p{k}") for k in range(6)}
    assert model.predict(given) == from_files
    series = np.zeros((7, SIDE, SIDE), np.uint8)
    series[6] = given["p2"].pop(6)
    volume = {**given["p2"], "sagittal": series}
    assert model.predict({"p2": volume}) == [one for one in from_files if one.id == "p2"]


def test_new_pixels_are_new_answers(work: Path, model: SpineModel) -> None:
    given = arrays(work / "images/p0")
    before = model.predict({"p0": given})
    changed = {name: 255 - pixels for name, pixels in given.items()}
    after = model.predict({"p0": changed})
    assert before[0].probabilities != after[0].probabilities
    assert model.predict({"p0": given}) == before


def test_a_table_has_a_column_for_everything(work: Path, model: SpineModel) -> None:
    answers = model.predict([work / "images/p1", work / "images/p3"], labels=work / "labels.json")
    table = answers.to_frame()
    assert list(table.columns) == [
        *("patient", "task", "level", "slices", "choice", "text"),
        *(f"probability_{k}" for k in range(4)),
        *("box", "truth", "correct"),
    ]
    assert len(table) == 2 * 6
    for (_, row), one in zip(table.iterrows(), answers, strict=True):
        assert (row["patient"], row["task"], row["level"]) == (one.id, one.task, one.object)
        assert one.probabilities is not None
        assert row["probability_2"] == one.probabilities[2]
        assert row["truth"] == (1 if one.id == "p1" else 0 if one.task == "qd" else 3)
        assert row["correct"] == (row["choice"] == row["truth"])
    assert table["probability_3"].isna().tolist() == [one == "qd" for one in table["task"]]


def test_what_is_not_known_is_empty() -> None:
    given = [
        Prediction("a", "qd", "", (6,), None, None, "?"),
        Prediction("a", "positioning", "C2", (6,), None, None, "", Box(1, 2, 3, 4)),
    ]
    table = Predictions(given).to_frame()
    assert table["choice"].isna().all()
    assert table["correct"].isna().all()
    assert table["box"].tolist() == [None, [1, 2, 3, 4]]
    assert table["text"].tolist() == ["?", ""]
    assert list(Predictions().to_frame().columns)[:3] == ["patient", "task", "level"]


def test_a_home_directory_may_be_written_as_a_tilde(
    work: Path, model: SpineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(work))
    again = spinevl.load("~/checkpoint", device="cpu", batch_patients=1)
    found = again.predict(["~/images/p4"], labels="~/labels.json")
    assert [one.truth for one in found] == [1, *[0] * 5]
    assert [one.choice for one in found] == [
        one.choice for one in model.predict(work / "images/p4")
    ]


def test_problems_are_one_line_each(work: Path, model: SpineModel) -> None:
    for asked, said in (
        (work / "nowhere", "nowhere"),
        ([work / "images/p0", work / "images/p9"], "p9"),
        ([work / "images/p0", work / "other/p0"], "p0"),
        ({"p0": {6: np.zeros((SIDE, SIDE))}}, "float64"),
        ([], "expected patients, found none"),
        ({}, "expected patients, found none"),
    ):
        with pytest.raises(UserError, match=said) as refused:
            model.predict(asked)
        assert all("\n" not in one for one in refused.value.problems)
    with pytest.raises(UserError, match="device=nonsense"):
        spinevl.load(work / "checkpoint", device="nonsense")
    with pytest.raises(UserError, match=r"gone\.json"):
        model.predict(work / "images/p0", labels=work / "gone.json")
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(UserError, match=f"batch_patients.*found {wrong}"):
            spinevl.load(work / "checkpoint", batch_patients=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "patients",
    [None, 3, b"images", "", " ", "a\0b", np.zeros((7, SIDE, SIDE), np.uint8), ["x", None], [""]],
)
def test_patients_of_another_kind_are_named(model: SpineModel, patients: Any) -> None:
    with pytest.raises(UserError, match=r"predict: patients.*expected"):
        model.predict(patients)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("templates", one) for one in ({"qd": None}, {"qd": -7}, {"qd": {"a": 1}}, 3, None)),
        *(("sag_image", one) for one in (None, -7, "zz", {"a": 1}, [], ["6"])),
        ("sag_type", "jont"),
    ],
)
def test_a_damaged_study_is_one_line(work: Path, tmp_path: Path, key: str, value: Any) -> None:
    shutil.copytree(work / "checkpoint", tmp_path / "checkpoint")
    file = tmp_path / "checkpoint/config.json"
    content = json.loads(file.read_text())
    content["study"][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"(study\.|task )"):
        spinevl.load(tmp_path / "checkpoint", device="cpu")


def test_folders_may_come_from_any_iterable(work: Path, model: SpineModel) -> None:
    found = model.predict(one for one in (work / "images").iterdir() if one.name < "p2")
    assert {one.id for one in found} == {"p0", "p1"}


@pytest.mark.parametrize("labels", [3, "", [], {"p0": 1}, b"labels.json"])
def test_labels_of_another_kind_are_named(work: Path, model: SpineModel, labels: Any) -> None:
    with pytest.raises(UserError, match="predict: labels"):
        model.predict(work / "images/p0", labels=labels)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("checkpoint", one) for one in (None, 3, "", [], b"x")),
        *(("mode", one) for one in (None, 3, "", "best", ["choice"])),
        *(("trusted_targets", one) for one in (None, 3, "package", [3])),
        *(("device", one) for one in (0.5, "", [], "cpu:x")),
        *(("batch_patients", one) for one in (None, "4", [], float("nan"))),
    ],
)
def test_an_argument_of_load_of_another_kind_is_named(
    work: Path, argument: str, value: Any
) -> None:
    with pytest.raises(UserError, match=argument) as refused:
        spinevl.load(**{"checkpoint": work / "checkpoint", argument: value})
    assert len(refused.value.problems) == 1
