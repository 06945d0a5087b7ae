"""``spinevl.load(checkpoint).predict(paths)``: the predict verb in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spinevl.build.allowlist import Allowed
from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.check import from_plain
from spinevl.config.options import PredictOptions
from spinevl.data.study import PatientStudy
from spinevl.data.study_spec import StudySpec
from spinevl.inference.predictor import Predictor
from spinevl.schema.cohort import StudyRequest
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example
from spinevl.schema.patient import composed
from spinevl.schema.prediction import Prediction
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task
from spinevl.sources.cervai import CervAISource


class Predictions(list[Prediction]):
    """A list of predictions, which makes a table too."""

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row a question, with the columns of ``predictions.jsonl``.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise UserError("to_frame needs pandas: pip install 'spinevl[pandas]'") from error
        return pd.DataFrame([one.to_json() for one in self])


class SpineModel:
    """A trained model and the study that it was trained for.

    Attributes:
        predictor: answers examples.
        tasks: what it was trained to answer.
        config: the checkpoint's config.
    """

    def __init__(
        self, predictor: Predictor, tasks: Mapping[str, Task], config: Mapping[str, Any]
    ) -> None:
        self.predictor = predictor
        self.tasks = tasks
        self.config = config

    def predict(self, paths: str | Path | Sequence[str | Path]) -> Predictions:
        """Answers for a folder of patients (``{id}/sag/6.png`` ...), or for some patient folders.

        Raises:
            UserError: an image that is missing or unusable.
        """
        study = self.config["study"]
        if not self.tasks:
            raise UserError("this checkpoint was trained for no study; use spinevl predict")
        spec = StudySpec(sag_image=study["sag_image"], sag_type=study["sag_type"])
        layout = _layout(study.get("data") or {})
        examples: list[Example] = []
        folders = _patients(paths, layout)
        asked: dict[str, Path] = {}
        for folder in (root / name for root, named in folders for name in named or ()):
            if other := asked.get(composed(folder.name)):
                raise UserError(
                    f"predict: two folders are called {folder.name}: {other} and {folder}; "
                    "predict them apart"
                )
            asked[composed(folder.name)] = folder
        for root, names in folders:
            source = CervAISource(test_images=str(root), **vars(layout))
            request = StudyRequest(self.tasks, {}, study["sag_image"], {"test"}, Path)
            cohort = source.load(request, only=names)
            opened = PatientStudy(
                spec, source, cohort, ("test",), None, self.tasks, study["templates"]
            )
            examples += opened.examples("test")
        return Predictions(self.predictor.predict(examples))


def load(
    checkpoint: str | Path,
    *,
    mode: str = "choice",
    batch_patients: int = 16,
    trusted_targets: Sequence[str] = (),
    device: str | None = None,
) -> SpineModel:
    """Load a checkpoint folder.

    Args:
        checkpoint: the ``checkpoint/`` folder that train or run wrote.
        mode: ``choice`` or ``generate``.
        batch_patients: patients read at once.
        trusted_targets: your own packages that the checkpoint's parts may come from.
        device: ``cpu``, ``cuda``, ...; the GPU where there is one by default.

    Raises:
        UserError: no checkpoint there, a damaged one, or another mode.
    """
    loaded = load_checkpoint(Path(checkpoint), allowed=Allowed(tuple(trusted_targets)))
    loaded.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    layout = _layout(loaded.study.get("data") or {})
    options = from_plain(PredictOptions, {"mode": mode, "batch_size": batch_patients}, at="predict")
    decode = CervAISource(**vars(layout)).decode
    predictor = Predictor(loaded.model, decode, options=options)
    return SpineModel(predictor, loaded.tasks, loaded.config)


def _layout(node: Mapping[str, Any]) -> StudyLayout:
    """The layout of the images that a checkpoint was trained on."""
    told = {name: node[name] for name in vars(StudyLayout()) if name in node}
    if "slices" in told:
        told["slices"] = tuple(told["slices"])
    return StudyLayout(**told)


def _patients(
    paths: str | Path | Sequence[str | Path], layout: StudyLayout
) -> list[tuple[Path, list[str] | None]]:
    """(root, ids) pairs; ids None takes every folder of the root."""
    if isinstance(paths, (str, Path)):
        root = _whole(paths)
        shown = layout.images(str(root.parent), root.name, slices=layout.slices, levels=())
        one = any(Path(image.path).exists() for image in shown)
        return [(root.parent, [root.name])] if one else [(root, None)]
    by_root: dict[Path, list[str]] = {}
    for path in map(_whole, paths):
        by_root.setdefault(path.parent, []).append(path.name)
    return list(by_root.items())


def _whole(path: str | Path) -> Path:
    """A path whose last part is the patient's id; links stay."""
    return Path(os.path.abspath(path))  # noqa: PTH100
