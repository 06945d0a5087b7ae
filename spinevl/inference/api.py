"""``spinevl.load(checkpoint).predict(paths)``: the predict verb in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.build.allowlist import Allowed
from spinevl.data.records import build_records
from spinevl.inference.assemble import load_model, stored_tasks
from spinevl.inference.predictor import Mode, Predictor
from spinevl.schema.errors import UserError
from spinevl.schema.prediction import Prediction
from spinevl.schema.record import Record
from spinevl.schema.task import Task
from spinevl.sources.cervai import CervAISource


class SpineModel:
    """A trained model and the study that it was trained for.

    Attributes:
        predictor: answers records.
        tasks: what it was trained to answer.
        config: the checkpoint's config.
    """

    def __init__(
        self, predictor: Predictor, tasks: Mapping[str, Task], config: Mapping[str, Any]
    ) -> None:
        self.predictor = predictor
        self.tasks = tasks
        self.config = config

    def predict(self, paths: str | Path | Sequence[str | Path]) -> list[Prediction]:
        """Answers for a folder of patients (``{id}/sag/6.png`` ...), or for some patient folders.

        Raises:
            UserError: an image that is missing or unusable.
        """
        study = self.config["study"]
        if not self.tasks:
            raise UserError("this checkpoint was trained for no study; use spinevl predict")
        records: list[Record] = []
        for root, ids in _patients(paths):
            source = CervAISource(test_images=str(root))
            cohort = source.load(
                tasks=self.tasks,
                known_tasks={},
                sag_image=study["sag_image"],
                subsets={"test"},
                cache_dir=Path(),
                only=ids,
            )
            for task in self.tasks.values():
                records += build_records(
                    cohort.test,
                    task=task,
                    template=study["templates"][task.name],
                    sag_image=study["sag_image"],
                    separate=study["sag_type"] == "separate",
                    images_root=cohort.test_images,
                    answers="none",
                )
        return self.predictor.predict(records)


def load(
    checkpoint: str | Path,
    *,
    mode: Mode = "choice",
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
    """
    import torch

    allowed = Allowed(tuple(trusted_targets))
    model, config = load_model(Path(checkpoint), allowed=allowed)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tasks = stored_tasks(config, allowed=allowed) if config["study"].get("task") else {}
    predictor = Predictor(model, tasks=tasks, mode=mode, batch_patients=batch_patients)
    return SpineModel(predictor, tasks, config)


def _patients(
    paths: str | Path | Sequence[str | Path],
) -> list[tuple[Path, list[str] | None]]:
    """(root, ids) pairs; ids None takes every folder of the root."""
    if isinstance(paths, (str, Path)):
        root = Path(paths)
        return [(root.parent, [root.name])] if (root / "sag").is_dir() else [(root, None)]
    by_root: dict[Path, list[str]] = {}
    for path in map(Path, paths):
        by_root.setdefault(path.parent, []).append(path.name)
    return list(by_root.items())
