"""What conversations are written with: image placeholders, and MedM-VL's system sentence."""

from __future__ import annotations

import re

PLACEHOLDER = re.compile("<image(?:3d)?>")

MEDMVL_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
