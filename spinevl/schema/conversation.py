"""What stands before every MedM-VL conversation."""

from __future__ import annotations

MEDMVL_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
