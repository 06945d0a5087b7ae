"""``spinevl.load(checkpoint).predict(paths)``: the predict verb in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinevl.build.allowlist import Allowed
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.check import from_plain
from spinevl.config.options import PredictMode, PredictOptions
from spinevl.data.study import PatientStudy, templates_of
from spinevl.data.study_spec import StudySpec, damaged
from spinevl.evaluation.join import with_truth
from spinevl.inference.precision import held_in, pack_weights, ready, settled
from spinevl.inference.predictor import Predictor
from spinevl.io.files import expanded
from spinevl.models.source import checkpoint_folder
from spinevl.schema.box import Box
from spinevl.schema.cohort import Cohort, DataSource, StudyRequest
from spinevl.schema.errors import UserError, refused
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient, composed
from spinevl.schema.prediction import Prediction
from spinevl.schema.study_layout import StudyLayout
from spinevl.schema.task import Task
from spinevl.sources.arrays import Arrays, ArraySource
from spinevl.sources.cervai import CervAISource
from spinevl.sources.labels import read_labels
from spinevl.sources.patient_folders import patient_of


class Predictions(list[Prediction]):
    """A list of predictions, which makes a table too."""

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row a question.

        Its columns are ``patient``, ``task``, ``level`` (empty for the whole spine), ``slices``,
        ``choice`` (the label), ``text``, ``probability_0`` and so on for each label, ``box``,
        ``truth`` and ``correct``; empty where there is none, or it is not known.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise UserError("to_frame needs pandas: pip install 'spinevl[pandas]'") from error
        labels = sorted({label for one in self for label in one.probabilities or {}})
        names = [f"probability_{label}" for label in labels]
        rows = [_row(one, labels) for one in self]
        columns = [*_BEFORE, *names, *_AFTER]
        kinds = {"choice": "Int64", "correct": "boolean", **dict.fromkeys(names, "Float64")}
        return pd.DataFrame(rows, columns=columns).astype(kinds)


_BEFORE = ("patient", "task", "level", "slices", "choice", "text")
_AFTER = ("box", "truth", "correct")


def _row(one: Prediction, labels: Sequence[int]) -> list[Any]:
    """The cells of a prediction, in the order of the columns."""
    known = one.probabilities or {}
    truth = one.truth.as_list() if isinstance(one.truth, Box) else one.truth
    box = None if one.box is None else one.box.as_list()
    asked = [one.id, one.task, one.object, list(one.slices), one.choice, one.text]
    return [*asked, *(known.get(label) for label in labels), box, truth, one.correct]


class SpineModel:
    """A trained model and the study that it was trained for.

    Attributes:
        checkpoint: the model, its tasks and its config.
        options: how it answers.
    """

    def __init__(self, checkpoint: Checkpoint, options: PredictOptions) -> None:
        self.checkpoint = checkpoint
        self.options = options
        self.tasks: Mapping[str, Task] = checkpoint.tasks
        self.layout = StudyLayout.told(checkpoint.study.get("data") or {})
        self._spec = StudySpec().filled(checkpoint.study) if self.tasks else StudySpec()
        if self.tasks and not self._spec.sag_image:
            raise damaged(["study.sag_image: expected a list of slices, found none"])
        self._templates = templates_of(self._spec, self.tasks)

    def predict(
        self,
        patients: str | Path | Iterable[str | Path] | Arrays,
        *,
        labels: str | Path | None = None,
    ) -> Predictions:
        """Answers for patients.

        Args:
            patients: a folder of patients (``{id}/sag/6.png`` ...), one patient's folder, some of
                them, or arrays: ``{"p1": {6: sagittal, "C2-C3": axial}}``. A key is the number of
                a sagittal slice, the level of an axial one, or ``"sagittal"`` for a volume whose
                slice 6 is ``volume[6]``. An image is uint8 [H, W], or [H, W, 3] with equal
                channels, of the size that the model was trained on.
            labels: a label file; the predictions then carry the truth where it has the patient.

        Raises:
            UserError: an image that is missing or unusable, or a damaged label file.
        """
        known: Sequence[Patient] = ()
        if labels is not None:
            closed = {name: task for name, task in self.tasks.items() if task.closed}
            file = _path(labels, "predict: labels", "a label file")
            known = read_labels(file, tasks=closed, required=list(closed))
        examples, decode = self.questions(patients)
        # a new one each time: a patient's images may have changed since the last
        predictor = Predictor(self.checkpoint.model, decode, options=self.options)
        return Predictions(with_truth(predictor.predict(examples), known, self.tasks))

    def questions(
        self, patients: str | Path | Iterable[str | Path] | Arrays
    ) -> tuple[list[Example], Callable[[ImageRef], np.ndarray]]:
        """What ``predict`` asks about patients, and how their images are decoded.

        Raises:
            UserError: an image that is missing or unusable, or a checkpoint of no study.
        """
        if not self.tasks:
            raise UserError("this checkpoint was trained for no study; use spinevl predict")
        if isinstance(patients, Mapping):
            source = ArraySource(patients=patients, layout=self.layout)
            return self._examples(source, source.load(self._request())), source.decode
        examples: list[Example] = []
        for folders, names in _patients(patients, self.layout):
            files = CervAISource(test_images=str(folders), **vars(self.layout))
            examples += self._examples(files, files.load(self._request(), only=names))
        return examples, CervAISource(**vars(self.layout)).decode

    def _request(self) -> StudyRequest:
        return StudyRequest(self.tasks, {}, self._spec.sag_image or [], {"test"}, Path)

    def _examples(self, source: DataSource, cohort: Cohort) -> list[Example]:
        told = (self._spec, source, cohort, ("test",), None, self.tasks, self._templates)
        return PatientStudy(*told).examples("test")


def load(
    checkpoint: str | Path,
    *,
    mode: str = "choice",
    precision: str = "auto",
    batch_patients: int = 16,
    trusted_targets: Sequence[str] = (),
    device: str | None = None,
) -> SpineModel:
    """Load a checkpoint folder to answer with.

    On a CPU the weights of its LLM may be packed: such a model cannot be trained, copied or stored.

    Args:
        checkpoint: the ``checkpoint/`` folder that train or run wrote.
        mode: ``choice`` or ``generate``.
        precision: ``float32``, ``bfloat16``, or ``auto`` for the faster one; what is measured
            for it is kept in ``SPINEVL_CACHE_DIR``, by default ``~/.cache/spinevl``.
        batch_patients: patients read at once.
        trusted_targets: your own packages that the checkpoint's parts may come from.
        device: ``cpu``, ``cuda``, ...; the GPU where there is one by default.

    Raises:
        UserError: no checkpoint there, a damaged one, an argument of another kind, or a device that
            is not there.
    """
    folder = checkpoint_folder(os.fspath(_named(checkpoint, "load: checkpoint", "a checkpoint")))
    if type(batch_patients) is not int or batch_patients < 1:
        found = repr(batch_patients)
        raise refused("load: batch_patients", "an integer, 1 or more", found, "leave it out")
    told = {"mode": mode, "precision": precision, "batch_size": batch_patients}
    options = from_plain(PredictOptions, told, at="load")
    listed = isinstance(trusted_targets, (list, tuple, set, frozenset))
    if not listed or not all(isinstance(one, str) for one in trusted_targets):
        wanted, found = "a list of names of packages", repr(trusted_targets)
        raise refused("load: trusted_targets", wanted, found, "put the name in brackets")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    if not isinstance(chosen, (str, torch.device)):
        raise refused("load: device", "cpu, cuda, ...", repr(chosen), "leave it out")
    try:
        torch.empty(0, device=chosen).tolist()  # meta has no numbers
    # torch's, for a device it does not know or have
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise refused(f"device={chosen}", "a device of this machine", reason, "try cpu") from error
    kept = StudySpec(cache_dir=os.environ.get("SPINEVL_CACHE_DIR") or StudySpec.cache_dir)
    options = settled(options, checkpoint=folder, device=chosen, cache_folder=kept.cache_folder)
    held = held_in(options.precision)
    loaded = load_checkpoint(folder, allowed=Allowed(tuple(trusted_targets)), held=held)
    ready(loaded.model, options.precision).to(chosen)
    pack_weights(loaded.model, options, writes=options.mode == PredictMode.generate)
    return SpineModel(loaded, options)


def _patients(
    paths: str | Path | Iterable[str | Path], layout: StudyLayout
) -> list[tuple[Path, list[str] | None]]:
    """(root, ids) pairs; ids None takes every folder of the root."""
    if isinstance(paths, (str, Path)):
        root = _whole(paths)
        one = patient_of(root.name, layout)
        if one is None:
            return [(root, None)]
        shown = layout.images(str(root.parent), one, slices=layout.slices, levels=())
        there = any(Path(image.path).exists() for image in shown)
        return [(root.parent, [one])] if there else [(root, None)]
    if isinstance(paths, bytes) or hasattr(paths, "shape") or not isinstance(paths, Iterable):
        raise refused(_PATIENTS, "folders, or a mapping of ids to arrays", _kind(paths), _ARRAYS)
    by_root: dict[Path, list[str]] = {}
    known: dict[str, Path] = {}
    for path in map(_whole, paths):
        one = patient_of(path.name, layout)
        if one is None:
            wanted = f"a patient's folder, as in {layout.sagittal}"
            raise refused(f"predict: {path}", wanted, path.name, "give the folder of all patients")
        if other := known.get(composed(one)):
            raise UserError(
                f"predict: two folders are called {path.name}: {other} and {path}; "
                "predict them apart"
            )
        known[composed(one)] = path
        by_root.setdefault(path.parent, []).append(one)
    if not by_root:
        raise refused("predict", "patients", "none", "give their folders")
    return list(by_root.items())


_PATIENTS = "predict: patients"
_ARRAYS = 'pass arrays as {"p1": {6: sagittal, "C2-C3": axial}}'


def _whole(path: Any) -> Path:
    """A path whose last part tells the patient; links stay."""
    return Path(os.path.abspath(_path(path, _PATIENTS, "a folder")))  # noqa: PTH100


def _path(value: Any, argument: str, what: str) -> Path:
    """A path that was given as an argument."""
    return expanded(_named(value, argument, what))


def _named(value: Any, argument: str, what: str) -> str | Path:
    """What names a file, a folder or a checkpoint. An empty text names none."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise refused(argument, f"the path of {what}", _kind(value), f"give {what}")
    return value


def _kind(value: Any) -> str:
    """A wrong argument in a message: a plain value as it is, of others the type."""
    plain = value is None or isinstance(value, (str, bytes, int, float))
    return repr(value) if plain else type(value).__name__
