"""The training step: next-token loss on the answers, auxiliary loss on the visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch

from spinevl.config.options import AugmentOptions, OptimOptions, WarmupOptions
from spinevl.models.auxiliary_heads import AuxiliaryHeads
from spinevl.models.vlm import VLM, learns, sequence_logprobs
from spinevl.schema.batch import Batch
from spinevl.training.augment import augment
from spinevl.training.normalise import mean_over_ranks
from spinevl.training.optim import adamw, parameter_groups


class TrainingModule(pl.LightningModule):
    """Steps and optimizers of one run.

    Args:
        model: the model, its parts already frozen, adapted or free.
        heads: auxiliary classification heads; None trains on the next-token loss alone.
        warmup: the weight of their loss, and the share of steps that train on them alone.
        augment: augmentation of the images that a trained encoder reads.
        optim: AdamW and its schedule.
        total_steps: optimizer steps of the whole run.
        seed: of the augmentation.
    """

    def __init__(
        self,
        model: VLM,
        heads: AuxiliaryHeads | None,
        *,
        warmup: WarmupOptions,
        augment: AugmentOptions,
        optim: OptimOptions,
        total_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self.warmup = warmup
        self.augment = augment
        self.optim = optim
        self.total_steps = total_steps
        self.warmup_steps = round(warmup.fraction * total_steps) if heads else 0
        self.augmentation = torch.Generator().manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The loss of one batch; answers are averaged over their tokens."""
        pixels = batch.pixel_values
        # a frozen encoder gets the same image each time
        if pixels.numel() and learns(self.model.encoder):
            pixels = augment(
                pixels,
                shiftable=batch.shiftable,
                shift_px=self.augment.shift_px,
                gain=self.augment.gain,
                generator=self.augmentation,
            )
        visual_tokens = self.model.encode_images(replace(batch, pixel_values=pixels))
        auxiliary = None
        if self.heads is not None:
            auxiliary = self.heads(visual_tokens[0], batch)
            auxiliary = auxiliary / mean_over_ranks(batch.loss_targets, like=auxiliary)
            self.log("loss/auxiliary", auxiliary)
        if auxiliary is not None and self.global_step < self.warmup_steps:
            loss = auxiliary
        else:
            loss = self._answer_loss(batch, visual_tokens)
            self.log("loss/answer", loss)
            if auxiliary is not None:
                loss = loss + self.warmup.weight * auxiliary
        if not loss.requires_grad:  # a batch of text alone, where only vision branches learn
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
        """AdamW over what learns, a rate each for the parts and the auxiliary heads."""
        optim = self.optim
        parts = dict(self.model.named_children())
        # a branch of volumes learns at the rate of its kind
        lr = {part: getattr(optim.lr, part.removesuffix("3d")) for part in parts}
        groups = parameter_groups(parts, lr=lr, weight_decay=optim.weight_decay)
        if self.heads is not None:
            groups += parameter_groups(
                {"heads": self.heads},
                lr={"heads": optim.lr.heads},
                weight_decay=optim.weight_decay,
            )
        optimizer, scheduler = adamw(
            groups,
            betas=optim.betas,
            total_steps=self.total_steps,
            warmup_ratio=optim.warmup_ratio,
            schedule=optim.schedule,
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
