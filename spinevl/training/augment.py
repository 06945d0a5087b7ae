"""Augmentation on the device: shifts and contrast, for all images of a batch at once.

No left-right flip: laterality is a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def draws_of(images: Sequence[int], *, batch: int, seed: int) -> list[torch.Generator]:
    """A generator for each image of a batch, told by the numbers of both in the training.

    So an image is augmented alike whichever rank reads it, and in a training that was resumed.
    """
    digests = [hashlib.sha256(f"{seed} {batch} {image}".encode()).digest() for image in images]
    return [torch.Generator().manual_seed(int.from_bytes(one[:7], "big")) for one in digests]


def augment(
    pixel_values: torch.Tensor,
    *,
    shiftable: torch.Tensor,
    shift_px: int,
    gain: float,
    draws: Sequence[torch.Generator],
) -> torch.Tensor:
    """Shift each image by up to ``shift_px`` pixels and scale its contrast by up to ``gain``.

    Args:
        pixel_values: [U, C, H, W].
        shiftable: [U] bool; images that stay in place where False.
        shift_px: largest shift in each direction, in pixels; borders are repeated.
        gain: largest relative change of contrast.
        draws: a generator for each image, on the CPU, so that a run repeats on any device.

    Returns:
        [U, C, H, W]
    """
    count, _, height, width = pixel_values.shape
    device = pixel_values.device
    if shift_px:
        each = [torch.randint(-shift_px, shift_px + 1, (2,), generator=one) for one in draws]
        shifts = torch.stack(each, dim=1).to(device) * shiftable
        rows = (torch.arange(height, device=device)[None] + shifts[0][:, None]).clamp(0, height - 1)
        columns = (torch.arange(width, device=device)[None] + shifts[1][:, None]).clamp(
            0, width - 1
        )
        image = torch.arange(count, device=device)
        pixel_values = pixel_values[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        pixel_values = pixel_values.permute(0, 3, 1, 2)
    if gain:
        factors = 1 + gain * (2 * torch.cat([torch.rand(1, generator=one) for one in draws]) - 1)
        pixel_values = pixel_values * factors.to(device)[:, None, None, None]
    return pixel_values
