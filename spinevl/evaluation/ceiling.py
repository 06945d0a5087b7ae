"""The ceiling of a phantom cohort: what a classifier on its exact geometry scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task
from spinevl.sources.phantom.ceiling import ceiling_predictions


@dataclass(frozen=True)
class Ceiling:
    """A baseline above the model, for phantoms only; boxes are left out.

    Attributes:
        latents: the side file of the phantom cohort.
        train: the patients to fit on.
        tasks: what is asked.
    """

    latents: Path
    train: Sequence[Patient]
    tasks: Mapping[str, Task]
    name: str = "ceiling"
    note: str = "a classifier on the phantoms' latent geometry, fitted on training patients"

    def predict(self, asked: Sequence[Prediction]) -> list[Prediction]:
        """See Baseline. Raises UserError for patients without latents."""
        patients = [Patient(one) for one in dict.fromkeys(one.id for one in asked)]
        answers = {
            (one.id, one.task, one.object): one
            for one in ceiling_predictions(
                self.latents, fit=self.train, predict=patients, tasks=self.tasks
            )
        }
        return [
            replace(found, slices=one.slices)
            for one in asked
            if (found := answers.get((one.id, one.task, one.object)))
        ]
