"""The training step: next-token loss on the answers, auxiliary loss on the visual tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from spinevl.config.options import AugmentOptions, OptimOptions
from spinevl.distributed.ranks import averaged, mean_over_ranks, rank
from spinevl.models.auxiliary_heads import AuxiliaryHeads
from spinevl.models.vlm import VLM, learns, sequence_logprobs
from spinevl.schema.batch import Batch
from spinevl.schema.errors import refused
from spinevl.schema.image_ref import Modality
from spinevl.schema.model_inputs import ImageTensors
from spinevl.training.augment import augment, draws_of
from spinevl.training.divergence import require_finite
from spinevl.training.every_branch import EveryBranch, require_reached
from spinevl.training.optim import adamw, parameter_groups
from spinevl.training.stage import Stage
from spinevl.training.task_losses import TaskLosses
from spinevl.training.zero import ZeroStrategy


class TrainingModule(pl.LightningModule):
    """Steps and optimizers of one run.

    Args:
        model: the model, its parts already frozen, adapted or free.
        heads: auxiliary classification heads; None trains on the next-token loss alone.
        auxiliary_weight: of their loss beside the next-token loss.
        augment: augmentation of the images that a trained encoder reads.
        optim: AdamW and its schedule.
        seed: of augmentation and dropout.
        stand_ins: an image of each kind that the data show, see EveryBranch.

    Attributes:
        stage: what is trained, see ``begin``.
        step_values: the last optimizer step's losses, gradient norm and learning rates.
    """

    def __init__(
        self,
        model: VLM,
        heads: AuxiliaryHeads | None,
        *,
        auxiliary_weight: float,
        augment: AugmentOptions,
        optim: OptimOptions,
        seed: int,
        stand_ins: Mapping[Modality, ImageTensors] | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # a state holds what learns
        self.model = model
        self.heads = heads
        self.every_branch = EveryBranch(model, stand_ins or {})
        self.stage: Stage
        self.auxiliary_weight = auxiliary_weight
        self.augment = augment
        self.optim = optim
        self.seed = seed
        self.task_losses = TaskLosses()
        self.step_values: dict[str, float] = {}
        self._losses: list[dict[str, torch.Tensor]] = []

    def begin(self, stage: Stage) -> None:
        """Say which stage the next fit is."""
        self.stage = stage

    def on_fit_start(self) -> None:
        """Each process drops out other places; their models were made from the same seed."""
        if rank():
            torch.manual_seed(self.seed + rank())

    @property
    def step(self) -> int:
        """The optimizer steps that are done, of all stages."""
        return self.stage.first_step + self.global_step

    @property
    def epoch(self) -> int:
        """The epochs that are done, of all stages."""
        return self.stage.first_epoch + self.current_epoch

    def parts(self) -> dict[str, nn.Module]:
        """The parts of the model, and the auxiliary heads."""
        heads = {} if self.heads is None else {"heads": self.heads}
        return {**dict(self.model.named_children()), **heads}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The loss of one batch."""
        batch = self.every_branch(batch)
        pixels = batch.pixel_values
        # a frozen encoder gets the same image each time
        if pixels.numel() and learns(self.model.encoder):
            pixels = augment(
                pixels,
                shiftable=batch.shiftable,
                shift_px=self.augment.shift_px,
                gain=self.augment.gain,
                draws=draws_of(batch.image_numbers, batch=batch.number, seed=self.seed),
            )
        visual_tokens = self.model.encode_images(replace(batch, pixel_values=pixels))
        losses: dict[str, torch.Tensor] = {}
        if self.heads is not None:
            each = self.heads(visual_tokens[0], batch)
            self.task_losses.add_auxiliary(batch, each)
            auxiliary = (each * batch.auxiliary_weight).sum()
            targets = mean_over_ranks(batch.auxiliary_divisor, like=auxiliary)
            auxiliary = auxiliary / (targets + (targets == 0))  # without any the sum is 0
            losses["loss/auxiliary"] = loss = auxiliary
        if self.stage.answers:
            losses["loss/answer"] = loss = self._answer_loss(batch, visual_tokens)
            if self.heads is not None:
                loss = loss + self.auxiliary_weight * auxiliary
        self._losses.append({name: one.detach() for name, one in (*losses.items(), ("loss", loss))})
        return loss

    def on_after_backward(self) -> None:
        """Refuse, instead of waiting for it, what the first step has not reached."""
        if self.global_step == 0 and isinstance(self.trainer.model, DistributedDataParallel):
            require_reached(self)

    def _answer_loss(self, batch: Batch, visual_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        logprobs = self.model.target_logprobs(batch, visual_tokens)
        self.task_losses.add_answers(batch, logprobs)
        return next_token_loss(logprobs, batch)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of a step, and log it; DeepSpeed clips as it steps."""
        if isinstance(self.trainer.strategy, ZeroStrategy):
            return
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        if gradient_clip_val:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self._log_step(optimizer, norm)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step; what the gradients' norm was DeepSpeed says afterwards."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if isinstance(self.trainer.strategy, ZeroStrategy):
            self._log_step(optimizer, self.trainer.strategy.grad_norm)

    def _log_step(self, optimizer: Any, norm: torch.Tensor) -> None:
        """Log a step's losses, the means over all processes, with its norm and learning rates.

        Raises:
            UserError: a loss or the gradients' norm is not finite. Under ``16-mixed`` the gradients
                may overflow: the scaler then skips the step and lowers its scale, down to 1.
        """
        losses = torch.stack([torch.stack(list(one.values())) for one in self._losses]).sum(0)
        # as the trainer divides them
        losses = averaged(losses / self.trainer.accumulate_grad_batches)
        names = [*self._losses[0], "grad_norm"]
        self._losses = []
        by_task = averaged(self.task_losses.take().to(losses))
        # the one transfer of a step from the device
        told = torch.cat([losses, norm.to(losses)[None], by_task]).tolist()
        values = dict(zip(names, told, strict=False))
        of_tasks = self.task_losses.named(told[len(names) :])
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if not math.isfinite(values["grad_norm"]) and scaler and scaler.get_scale() > 1:
            del values["grad_norm"]
        require_finite(values, step=self.step + 1, parts=self.parts())
        rates = {f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}
        self.step_values = {**values, **rates}
        self.log("loss", values["loss"], prog_bar=True)
        self.log_place(step=self.step + 1)
        others = {name: one for name, one in self.step_values.items() if name != "loss"}
        self.log_dict({**others, **of_tasks})

    def log_place(self, *, step: int) -> None:
        """Tell the logger where a value belongs; it knows the steps of one stage alone."""
        self.log_dict({"step": float(step), "epoch": float(self.epoch)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the weights that do not learn out of a state."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in self._learned(state)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a state with more or fewer weights than learn, or with others."""
        if "state_dict" not in checkpoint:  # DeepSpeed has put its weights in place
            return
        stored, here = checkpoint["state_dict"], self.state_dict()
        for name in sorted({*stored, *self._learned(here)}):
            shapes = [tuple(one[name].shape) if name in one else None for one in (here, stored)]
            if shapes[0] != shapes[1] or name not in self._learned(here):
                raise refused(
                    "the state of the training",
                    f"the weights that learn, {name} of shape {shapes[0]}",
                    f"shape {shapes[1]}" if shapes[1] else "none of it",
                    "start anew with resume=never",
                )

    def _learned(self, state: Mapping[str, Any]) -> list[str]:
        """The names of what may change in a training: weights that learn, and buffers."""
        weights = self.named_parameters(remove_duplicate=False)
        frozen = {name for name, one in weights if not one.requires_grad}
        return [name for name in state if name not in frozen]

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The log-probability of every option of every question, [S]."""
        return sequence_logprobs(self.model(self.every_branch(batch)), batch)

    def configure_optimizers(self) -> Any:
        """AdamW over what learns, a rate each for the parts and the auxiliary heads."""
        optim = self.optim
        parts = self.parts()
        # a branch of volumes learns at the rate of its kind
        lr = {part: getattr(optim.lr, part.removesuffix("3d")) for part in parts}
        groups = parameter_groups(parts, lr=lr, weight_decay=optim.weight_decay)
        optimizer, scheduler = adamw(
            groups,
            betas=optim.betas,
            total_steps=self.stage.total_steps,
            first_step=self.stage.first_step,
            warmup_ratio=optim.warmup_ratio,
            schedule=optim.schedule,
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def next_token_loss(logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The weighted mean over a step's answers, or their tokens, of what its batch has of them.

    Args:
        logprobs: of the target tokens [T].
        batch: their weights, and the number in the whole step.
    """
    total = (logprobs * batch.target_weight).sum()
    return -total / mean_over_ranks(batch.answer_divisor, like=logprobs)
