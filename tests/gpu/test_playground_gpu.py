"""The playground's engine on a CUDA device: greedy text is predict's, and samples are text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from spinevl.checkpoints.format import Checkpoint
from spinevl.config.options import PredictOptions
from spinevl.config.options.playground import LimitOptions
from spinevl.inference.api import SpineModel
from spinevl.inference.predictor import Predictor
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.generate import Sampling
from spinevl.models.llm import TinyLLM
from spinevl.models.vlm import VLM
from spinevl.playground.engine import ChatOptions, Engine
from spinevl.schema.example import Example, Key

pytestmark = pytest.mark.gpu

ROUNDS = (("Which curvature does the cervical spine have?", None),)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    torch.manual_seed(3)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = TinyLLM(width=32, layers=2, heads=4)
    for parameter in llm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    connector = MLPConnector(in_dim=16, out_dim=32, in_tokens=4, in_grid=(2, 2))
    model = VLM(encoder, connector, llm).eval().requires_grad_(False).cuda()
    model.llm.to(request.param)
    engine = Engine(SpineModel(Checkpoint(model, {}), PredictOptions()), LimitOptions())
    yield engine
    engine.close()


def test_greedy_text_is_that_of_predict(engine: Engine) -> None:
    found = engine.ask(ROUNDS, (), ChatOptions(new_tokens=16)).result()
    options = PredictOptions(max_new_tokens=16)
    predictor = Predictor(engine.model.checkpoint.model, lambda _: np.zeros(0), options=options)
    ((_, answer),) = predictor.answers([Example(Key("1", ""), (), ROUNDS)])
    assert found == answer.rounds[-1][1]


def test_samples_are_drawn(engine: Engine) -> None:
    sampling = Sampling(temperature=1.5, top_p=0.95, repetition_penalty=1.3)
    options = ChatOptions(sampling, new_tokens=16)
    texts = {engine.ask(ROUNDS, (), options).result() for _ in range(4)}
    assert len(texts) > 1
