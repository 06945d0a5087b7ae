"""The check of the patch grid by connectors that work on it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def require_grid(in_tokens: int, in_grid: Sequence[int], *, by: int, key: str, axes: int) -> None:
    """Raise ValueError where tokens are not a grid, or ``by`` does not divide it.

    Args:
        in_tokens: of an image.
        in_grid: how they lie.
        by: what must divide the last ``axes`` sides.
        key: the config key of ``by``.
        axes: how many of the last sides are divided.
    """
    if in_tokens != math.prod(in_grid):
        raise ValueError(
            f"the encoder gives {in_tokens} tokens on a grid of {_text(in_grid)}: a class token is "
            "on no grid; set encoder.select_feature=patch"
        )
    if by < 1 or any(side % by for side in in_grid[-axes:]):
        raise ValueError(
            f"{key}={by} does not divide the encoder's grid of {_text(in_grid)}; choose another, "
            "or another connector"
        )


def _text(grid: Sequence[int]) -> str:
    return " x ".join(map(str, grid))
