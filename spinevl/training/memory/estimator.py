"""The memory of one training for any batch, and the changes that make it fit."""

from __future__ import annotations

from dataclasses import replace

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.options import Attention
from spinevl.data.auxiliary_targets import head_sizes
from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.examples import grouped
from spinevl.data.study import Study
from spinevl.models.tuning import freeze_unshown
from spinevl.models.vlm import VLM
from spinevl.training.launching import device_of
from spinevl.training.memory.blank_model import blank_model, blank_module
from spinevl.training.memory.estimate import GB, Estimate, estimated
from spinevl.training.memory.rehearsal import Rehearsal, Rehearsals, shapes_only
from spinevl.training.memory.sharding import sharding_of
from spinevl.training.prepare import training_data
from spinevl.training.spec import TrainSpec
from spinevl.training.trainer import autocast_of


class Estimator:
    """Estimates the memory of a training; its parts are built once, on the meta device.

    Args:
        spec: the training; its ``trainer.batch_patients`` does not matter.
        study: its study.
        trust: what the command line trusts.
        device: ``cpu`` or ``cuda``; by default what ``trainer.accelerator`` takes here.

    Attributes:
        most: training patients, or conversations: no batch has more.

    Raises:
        Exception: of any kind, where the model cannot be built without its weights.
    """

    def __init__(
        self, spec: TrainSpec, study: Study, *, trust: Trust = NOTHING, device: str | None = None
    ) -> None:
        # a rehearsal has no GPU for FlexAttention, which needs neither masks nor heads repeated
        self.spec = replace(spec, trainer=replace(spec.trainer, attention=Attention.blocks))
        self.study = study
        self.device = device or device_of(spec.trainer.accelerator)
        self.sharding = sharding_of(spec.trainer)
        self.heads = head_sizes(study.tasks) if spec.warmup.weight > 0 else {}
        self.most = len(grouped(study.examples("train")))
        model = blank_model(spec, trust=trust)
        freeze_unshown(model, self._data(model, 1).shown())
        self.module = blank_module(self.spec, model, self.heads)
        autocast = autocast_of(spec.trainer)
        if self.sharding.stage and autocast:  # DeepSpeed keeps all weights in the half type
            self.module.to(autocast)
        self.rehearsals = Rehearsals(self.module, autocast=autocast, cuda=self.device == "cuda")
        self._known: dict[int, Estimate] = {}

    def __call__(self, batch_patients: int) -> Estimate:
        """The estimate with this ``trainer.batch_patients``."""
        if batch_patients not in self._known:
            self._known[batch_patients] = self._estimate(batch_patients)
        return self._known[batch_patients]

    def largest_batch(self, size: float, *, most: int) -> int:
        """The largest batch of at most ``most`` whose estimate is no more than ``size``; 0 if none.

        The memory grows almost evenly with the batch, so the next one to try is where the line
        through the last two estimates meets ``size``.
        """
        fits, fails = 0, min(most, self.most) + 1
        guess = 1
        while fails - fits > 1:
            total = self(guess).total
            fits, fails = (guess, fails) if total <= size else (fits, guess)
            first = self(1).total
            each = (total - first) / (guess - 1) if guess > 1 else self._each(first, fails)
            guess = int((size - first) / max(each, 1.0)) + 1
            guess = max(fits + 1, min(guess, fails - 1))
        return fits

    def _each(self, first: float, fails: int) -> float:
        """What one patient more needs, of the first two."""
        return self(2).total - first if fails > 2 else 1.0

    def _data(self, model: VLM, batch_patients: int) -> ExampleDataModule:
        trainer = replace(self.spec.trainer, batch_patients=batch_patients)
        spec = replace(self.spec, trainer=trainer)
        return training_data(spec, self.study, model, self.heads)

    def rehearsed(self, batch_patients: int) -> Rehearsal:
        """The step with this ``trainer.batch_patients``, on one device that shares nothing."""
        data = self._data(self.module.model, batch_patients)
        shapes_only(data, self._kept_features(data))
        return self.rehearsals(data)

    def _estimate(self, batch_patients: int) -> Estimate:
        return estimated(
            self.rehearsed(batch_patients),
            self.sharding,
            batch_patients=batch_patients,
            device=self.device,
            averaged=bool(self.spec.trainer.ema),
        )

    def _kept_features(self, data: ExampleDataModule) -> dict[str, tuple[int, int]]:
        """(tokens, dim) of the features that are read from the cache, by modality.

        On a GPU encoding may be measured to be faster, so there the encoder counts unless features
        are kept in any case.
        """
        options = self.spec.feature_cache
        if not self.spec.keeps_features or (self.device != "cpu" and options.only_if_faster):
            return {}
        shown = {image for one in (*data.train, *data.dev) for image in one.images}
        kept: dict[str, tuple[int, int]] = {}
        for modality, branch in self.module.model.vision_branches().items():
            encoder = branch.encoder
            n_images = sum(image.modality == modality for image in shown)
            size = 4 * encoder.tokens * encoder.dim * n_images
            if size <= self.spec.feature_cache.max_gb * GB:
                kept[modality] = (encoder.tokens, encoder.dim)
        return kept
