"""The training step: next-token loss on the answers, and direct heads on the visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch

from spinevl.models.auxiliary_heads import AuxiliaryHeads
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.batch import Batch
from spinevl.training.augment import augment
from spinevl.training.normalise import mean_over_ranks
from spinevl.training.optim import adamw, parameter_groups


@dataclass(frozen=True)
class Objective:
    """What is optimised.

    Attributes:
        direct_weight: weight of the direct heads' loss beside the next-token loss.
        warmup_fraction: the share of all steps that train on the direct heads alone.
        shift_px, gain: augmentation, see augment().
    """

    auxiliary_weight: float = 1.0
    warmup_fraction: float = 0.3
    shift_px: int = 4
    gain: float = 0.1


class TrainingModule(pl.LightningModule):
    """Steps and optimizers of one run.

    Args:
        model: the model, its parts already frozen, adapted or free.
        heads: direct heads; None trains on the next-token loss alone.
        objective: the losses.
        lr, betas, weight_decay, warmup_ratio, schedule: see ``optim``.
        total_steps: optimizer steps of the whole run.
        seed: of the augmentation.
    """

    def __init__(
        self,
        model: VLM,
        heads: AuxiliaryHeads | None,
        *,
        objective: Objective,
        lr: Mapping[str, float],
        betas: Sequence[float],
        weight_decay: float,
        warmup_ratio: float,
        schedule: str,
        total_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self.objective = objective
        self.lr = dict(lr)
        self.betas = tuple(betas)
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.schedule = schedule
        self.total_steps = total_steps
        self.warmup_steps = round(objective.warmup_fraction * total_steps) if heads else 0
        self.augmentation = torch.Generator().manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The loss of one batch; answers are averaged over their tokens."""
        pixels = batch.pixel_values
        if (
            pixels.numel() and self.model.encoder_learns
        ):  # an image that is not learned from looks the same each time
            pixels = augment(
                pixels,
                shiftable=batch.shiftable,
                shift_px=self.objective.shift_px,
                gain=self.objective.gain,
                generator=self.augmentation,
            )
        visual_tokens = self.model.encode_images(replace(batch, pixel_values=pixels))
        direct = None
        if self.heads is not None:
            direct = self.heads(visual_tokens[0], batch)
            direct = direct / mean_over_ranks(batch.loss_targets, like=direct)
            self.log("loss/direct", direct)
        if direct is not None and self.global_step < self.warmup_steps:
            loss = direct
        else:
            loss = self._answer_loss(batch, visual_tokens)
            self.log("loss/answer", loss)
            if direct is not None:
                loss = loss + self.objective.auxiliary_weight * direct
        if not loss.requires_grad:  # a batch of text alone, where only the eyes learn
            loss = loss + 0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        self.log("loss", loss, prog_bar=True)
        return loss

    def _answer_loss(self, batch: Batch, visual_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        logprobs = self.model.target_logprobs(batch, visual_tokens)
        weights = batch.sequence_weight[batch.target_sequence]
        return -(logprobs * weights).sum() / mean_over_ranks(batch.loss_tokens, like=logprobs)

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The log-probability of every option of every question, [S]."""
        return sequence_logprobs(self.model(batch), batch)

    def configure_optimizers(self) -> Any:
        """AdamW over what learns; the direct heads have a rate of their own where one is given."""
        parts = dict(self.model.named_children())
        lr = {part: self.lr[part.removesuffix("3d")] for part in parts}  # eyes for volumes alike
        groups = parameter_groups(parts, lr=lr, weight_decay=self.weight_decay)
        if self.heads is not None:
            groups += parameter_groups(
                {"heads": self.heads},
                lr={"heads": self.lr.get("heads", self.lr["connector"])},
                weight_decay=self.weight_decay,
            )
        optimizer, scheduler = adamw(
            groups,
            betas=self.betas,
            total_steps=self.total_steps,
            warmup_ratio=self.warmup_ratio,
            schedule=self.schedule,
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
