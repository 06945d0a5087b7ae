"""Fine-tune and compare vision-language models on spine MRI."""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def load(checkpoint: Any, **options: Any) -> Any:
    """Load a checkpoint folder; see spinevl.inference.api.load for the options."""
    from spinevl.inference.api import load as load_checkpoint

    return load_checkpoint(checkpoint, **options)
