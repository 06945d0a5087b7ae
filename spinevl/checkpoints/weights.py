"""A model's weights by name: taken out, and put back so that every name fits."""

from __future__ import annotations

import torch
from torch import nn

from spinevl.io.tensors import StoredTensors
from spinevl.models.quantized import dequantized_state
from spinevl.models.vlm import VLM
from spinevl.schema.errors import Problems, UserError


def unshared(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without the second name of a tied weight, contiguous and on the CPU.

    Quantized weights are dequantized.
    """
    known: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in dequantized_state(model).items():
        if tensor.data_ptr() in known and tensor.numel():
            continue
        known.add(tensor.data_ptr())
        state[name] = tensor.detach().to("cpu").contiguous()
    return state


@torch.no_grad()
def fill(model: VLM, stored: StoredTensors, *, where: str) -> None:
    """Load weights by name, one after another; every one of the model's must be there, and no
    other.

    Raises:
        UserError: weights missing, surplus or of another shape, by part, or not finite.
    """
    wanted = unshared(model)
    problems = Problems()
    for part in dict.fromkeys(key.partition(".")[0] for key in wanted):
        own = [key for key in wanted if key.startswith(part + ".")]
        missing = sorted(key for key in own if key not in stored)
        reshaped = sorted(k for k in own if k in stored and stored.shapes[k] != wanted[k].shape)
        for what, keys in (("missing", missing), ("of another shape", reshaped)):
            if keys:
                problems.append(f"{where}: {len(keys)} {part} weights {what}, first {keys[0]}")
    if surplus := sorted(set(stored) - set(wanted)):
        problems.append(f"{where}: {len(surplus)} weights that the model lacks, first {surplus[0]}")
    if problems:
        raise UserError(f"{one}; the weights do not belong to its config.json" for one in problems)
    own_weights = model.state_dict()  # tied weights are stored once
    for key in wanted:
        own_weights[key].copy_(stored[key])
