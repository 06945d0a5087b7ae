"""Augmentation on the device: shifts and contrast, for all images of a batch at once.

No left-right flip: laterality is a label.
"""

from __future__ import annotations

import torch


def augment(
    pixel_values: torch.Tensor,
    *,
    shiftable: torch.Tensor,
    shift_px: int,
    gain: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Shift each image by up to ``shift_px`` pixels and scale its contrast by up to ``gain``.

    Args:
        pixel_values: [U, C, H, W].
        shiftable: [U] bool; images that stay in place where False.
        shift_px: largest shift in each direction, in pixels; borders are repeated.
        gain: largest relative change of contrast.
        generator: on the CPU, so that a run repeats on any device.

    Returns:
        [U, C, H, W]
    """
    count, _, height, width = pixel_values.shape
    device = pixel_values.device
    if shift_px:
        shifts = torch.randint(-shift_px, shift_px + 1, (2, count), generator=generator)
        shifts = shifts.to(device) * shiftable
        rows = (torch.arange(height, device=device)[None] + shifts[0][:, None]).clamp(0, height - 1)
        columns = (torch.arange(width, device=device)[None] + shifts[1][:, None]).clamp(
            0, width - 1
        )
        image = torch.arange(count, device=device)
        pixel_values = pixel_values[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        pixel_values = pixel_values.permute(0, 3, 1, 2)
    if gain:
        factors = 1 + gain * (2 * torch.rand(count, generator=generator) - 1)
        pixel_values = pixel_values * factors.to(device)[:, None, None, None]
    return pixel_values
