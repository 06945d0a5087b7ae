"""What a batch holds, and which examples are refused before one is made."""

from __future__ import annotations

import numpy as np
import torch

from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.models.tokenizer import tiny_tokenizer
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.model_inputs import ModelInputs, VisionInputs

OPTIONS = ("A.normal", "B.bulging", "C.protrusion")
SAGITTAL = ImageRef("s6", patient="p", plane="sagittal", slice=6)
AXIAL = ImageRef("t2", patient="p", plane="axial", level="C2-C3")
CLOSED = Example(
    Key("p", "zjppt", "C2-C3"),
    (SAGITTAL, AXIAL),
    (("<image>\n<image>\nDisc C2-C3?", OPTIONS[1]),),
    kind="option",
    options=OPTIONS,
    label=1,
    truth=OPTIONS[1],
    weight=2.5,
)
BOX = Example(
    Key("p", "positioning", "C3"), (SAGITTAL,), (("<image>\nWhere?", "(1,2)"),), kind="box"
)
TALK = Example(
    Key("7", "report"),
    (ImageRef("x"),),
    (("<image>\nCurve?", "Straight."), ("Sure?", "Yes.")),
    source="file.json: record 3 (id 7)",
)
HEADS = {"sagittal/zjppt/C2-C3": 3, "sagittal/zjppt/C3-C4": 3, "axial/zjppt": 3}
"""In another order than their labels."""


def collator(*, max_length: int = 256, conversation: str = "chat", **options: object) -> Collator:
    def transform(pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels)[None].float()

    inputs = ModelInputs(
        tokenizer=tiny_tokenizer(),
        conversation=conversation,
        end_token=None,
        max_length=max_length,
        vision={"image": VisionInputs(3, transform)},
    )
    store = ImageStore(lambda image: np.full((4, 4), len(image.path), np.uint8))
    return Collator(inputs, store, **options)  # type: ignore[arg-type]
