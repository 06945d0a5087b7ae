"""AdamW with a learning rate a part, and the warm-up and cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from spinevl.config.options import Schedule
from spinevl.models.sharded import shape_of
from spinevl.schema.errors import UserError

# embeddings that are parameters of their module, by the names they have in vision towers
_EMBEDDINGS = frozenset(
    {
        "cls_token",
        "latents",
        "mask_token",
        "pos_embedding",
        "position_embeddings",
        "probe",
        "query",
        "register_tokens",
    }
)


def parameter_groups(
    parts: Mapping[str, nn.Module], *, lr: Mapping[str, float], weight_decay: float
) -> list[dict[str, object]]:
    """Optimizer groups: a learning rate a part, no decay on norms, biases and embeddings.

    Args:
        parts: part name -> module.
        lr: part name -> learning rate.
        weight_decay: of every other trained parameter.
    """
    groups: list[dict[str, object]] = []
    seen: set[nn.Parameter] = set()
    for part, module in parts.items():
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for child in module.modules():
            for name, parameter in child.named_parameters(recurse=False):
                if not parameter.requires_grad or parameter in seen:
                    continue
                seen.add(parameter)
                exempt = (
                    len(shape_of(parameter)) < 2
                    or isinstance(child, nn.Embedding)
                    or name.endswith("bias")
                    or name in _EMBEDDINGS
                )
                (plain if exempt else decayed).append(parameter)
        for parameters, decay in ((decayed, weight_decay), (plain, 0.0)):
            if parameters:
                groups.append(
                    {"params": parameters, "lr": lr[part], "weight_decay": decay, "name": part}
                )
    if not groups:
        raise UserError("tuning: nothing learns, every part is frozen; set one to full or lora")
    return groups


def adamw(
    groups: list[dict[str, object]],
    *,
    betas: Sequence[float],
    total_steps: int,
    warmup_ratio: float,
    schedule: Schedule,
    first_step: int = 0,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer of a stage, and its schedule.

    Args:
        groups: see parameter_groups.
        betas: of AdamW.
        total_steps: optimizer steps of the whole training, over which the rate falls.
        warmup_ratio: the share of them in which it rises, at the start of each stage.
        schedule: how it falls.
        first_step: the steps of earlier stages.
    """
    optimizer = torch.optim.AdamW(groups, betas=(betas[0], betas[1]))
    warmup_steps = max(1, round(warmup_ratio * total_steps))

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / warmup_steps)
        if schedule == Schedule.constant:
            return rising
        progress = (first_step + step - warmup_steps) / max(1, total_steps - warmup_steps)
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
