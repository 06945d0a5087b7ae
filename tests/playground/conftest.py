"""A small model of a study and of conversations, made without any training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from spinevl.checkpoints.format import Checkpoint
from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.options import PredictOptions
from spinevl.config.options.playground import LimitOptions
from spinevl.inference.api import SpineModel
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.base import Encoder
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import TinyLLM
from spinevl.models.vlm import VLM
from spinevl.playground.engine import Engine
from spinevl.playground.uploads import Uploads

SIDE = 64


class MeanOfSlices(Encoder):
    """Two tokens of a volume of any size."""

    dim, tokens, grid, modality = 4, 2, (2, 1, 1), "image3d"

    def transform(self, image: np.ndarray) -> torch.Tensor:
        halves = np.array_split(image, 2)
        return torch.tensor([[[[float(one.mean()) / 255]] for one in halves]])  # [1, 2, 1, 1]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values.flatten(1)[..., None].expand(-1, -1, 4)


def read(name: str) -> Any:
    return yaml.safe_load((CONF_DIR / name).read_text("utf-8"))


@pytest.fixture(scope="session")
def spine_model() -> SpineModel:
    torch.manual_seed(3)
    encoder = TinyEncoder(image_size=SIDE, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    for parameter in llm.parameters():  # apart enough that answers depend on what is asked
        nn.init.normal_(parameter, std=0.3)
    model = VLM(
        encoder,
        MLPConnector(in_dim=16, out_dim=32, in_tokens=4, in_grid=(2, 2)),
        llm,
        encoder3d=MeanOfSlices(),
        connector3d=MLPConnector(in_dim=4, out_dim=32, in_tokens=2, in_grid=(2, 1, 1)),
    )
    tasks = {name: read(f"task/{name}.yaml")[name] for name in ("qd", "zjppt", "positioning")}
    study = {
        "task": tasks,
        "templates": read("prompts/en.yaml")["templates"],
        "sag_image": [6],
        "sag_type": "joint",
        "data": {"_target_": "spinevl.sources.cervai.CervAISource", "side_px": SIDE},
    }
    checkpoint = Checkpoint(model.eval().requires_grad_(False), {}, study)
    return SpineModel(checkpoint, PredictOptions(batch_size=1))


@pytest.fixture
def limits() -> LimitOptions:
    return LimitOptions(
        upload_mb=1, megapixels=1, megavoxels=0.2, files=20, total_mb=8, waiting=2, seconds=60
    )


@pytest.fixture
def engine(spine_model: SpineModel, limits: LimitOptions) -> Iterator[Engine]:
    engine = Engine(spine_model, limits)
    yield engine
    engine.close()


@pytest.fixture
def uploads(tmp_path: Path, limits: LimitOptions) -> Iterator[Uploads]:
    with Uploads(limits, parent=tmp_path) as uploads:
        yield uploads
