"""Linear layers by oneDNN against torch's own, on any processor that has the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_llm import SMALL_DECODER
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.models.qwen2 import Qwen2Config

from spinevl.features.encode import encode
from spinevl.features.key import encoder_key
from spinevl.models import products
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.base import Encoder
from spinevl.models.fewer_passes import computed
from spinevl.models.llm import CausalLM
from spinevl.models.products import linear, onednn_is_faster
from spinevl.models.vlm import VLM

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="a torch without oneDNN"
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """On a processor for which oneDNN is faster, the shapes that it was given."""
    found: list[tuple[int, ...]] = []
    operator = torch.ops.mkldnn._linear_pointwise

    def recorded(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        found.append(tuple(rows.shape))
        return operator(rows, *rest)

    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", recorded)
    return found


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 5, 24), (130, 24)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@torch.no_grad()
def test_products_are_those_of_torch(
    calls: list[tuple[int, ...]], shape: tuple[int, ...], biased: bool, turned: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(*shape, generator=generator)
    weight = torch.randn(24, 40, generator=generator).T if turned else torch.randn(40, 24)
    bias = torch.randn(40, generator=generator) if biased else None
    found = linear(rows, weight, bias)
    assert calls == [shape]
    torch.testing.assert_close(found, functional.linear(rows, weight, bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_gradients_pass_through_a_layer_that_does_not_learn(
    calls: list[tuple[int, ...]], biased: bool
) -> None:
    rows = torch.randn(2, 5, 24, requires_grad=True)
    weight, bias = torch.randn(40, 24), torch.randn(40) if biased else None
    of_output = torch.randn(2, 5, 40)
    found = linear(rows, weight, bias)
    (gradient,) = torch.autograd.grad(found, rows, of_output)
    assert calls == [(2, 5, 24), (2, 5, 40)]
    expected = functional.linear(rows, weight, bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (expected,) = torch.autograd.grad(expected, rows, of_output)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_it_is_left_out_where_weights_learn_or_types_are_others(
    calls: list[tuple[int, ...]],
) -> None:
    rows, weight = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    assert linear(rows, weight, None).requires_grad
    assert linear(rows, weight.detach(), torch.zeros(5, requires_grad=True)).requires_grad
    shared = weight.detach()
    shared.ds_id = 0  # type: ignore[attr-defined]  # DeepSpeed's mark of a weight it divides
    linear(rows.requires_grad_(), shared, None).sum().backward()
    rows = rows.detach()
    assert calls == []
    with torch.no_grad():
        assert linear(rows.bfloat16(), weight.bfloat16(), None).dtype == torch.bfloat16
        assert linear(rows[0], weight, None).shape == (5,)
        assert linear(rows[:0], weight, None).shape == (0, 5)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(rows, weight, None).dtype == torch.bfloat16
    assert calls == []


def decoder() -> CausalLM:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**SMALL_DECODER)).eval()
    return CausalLM(model, None, conversation="medmvl")


@torch.inference_mode()
def test_a_decoder_takes_them_where_it_takes_fewer_passes(calls: list[tuple[int, ...]]) -> None:
    llm = decoder()
    ids = torch.tensor([[3, 4, 5, 6]])
    calls.clear()  # of its trial
    plain = llm.model.base_model(ids).last_hidden_state
    assert calls == []
    with computed(True):
        found = llm.model.base_model(ids).last_hidden_state
    linears = sum(type(one) is nn.Linear for one in llm.model.base_model.modules())
    assert len(calls) == linears == 7 * SMALL_DECODER["num_hidden_layers"]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_a_processor_is_judged_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(**able: object) -> bool:
        onednn_is_faster.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
        return onednn_is_faster()

    there = torch.backends.mkldnn.is_available()
    try:
        assert judged(cpu_name="AMD EPYC", avx512_f=True) == there
        assert not judged(cpu_name="AMD EPYC", avx512_f=False)
        assert not judged(cpu_name="Intel(R) Xeon(R)", avx512_f=True)
        assert not judged()
    finally:
        onednn_is_faster.cache_clear()


def test_the_head_takes_them_unless_it_learns(calls: list[tuple[int, ...]]) -> None:
    llm, hidden = decoder(), torch.randn(5, SMALL_DECODER["hidden_size"])
    calls.clear()
    learned = llm.logits(hidden)
    assert learned.requires_grad
    assert calls == []
    llm.requires_grad_(False)
    torch.testing.assert_close(llm.logits(hidden.requires_grad_()), learned, atol=1e-5, rtol=1e-5)
    assert calls.pop() == tuple(hidden.shape)
    with torch.inference_mode():
        torch.testing.assert_close(llm.logits(hidden), learned.detach(), atol=1e-5, rtol=1e-5)
        assert calls == [tuple(hidden.shape)]
        llm.plain_layers = True
        llm.logits(hidden)
    assert len(calls) == 1


class Rows(Encoder):
    """Each row of an image is a token."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.tokens, self.grid = 6, 4, (4, 1)
        self.project = nn.Linear(8, 6)

    def transform(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).float()[None]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.project(pixel_values[:, 0])


def test_a_frozen_encoder_takes_them_unless_layers_are_plain(calls: list[tuple[int, ...]]) -> None:
    sizes = {"in_dim": 6, "out_dim": SMALL_DECODER["hidden_size"], "in_tokens": 4}
    model = VLM(Rows(), MLPConnector(**sizes, in_grid=(4, 1)), decoder())
    drawn = (np.random.default_rng(n).integers(0, 256, (4, 8), np.uint8) for n in range(3))
    images = [model.encoder.transform(one) for one in drawn]
    calls.clear()
    found, key = encode(model.encoder, images), encoder_key(model.encoder)
    assert calls == [(12, 4, 8)]
    model.compute_plainly(True)
    np.testing.assert_allclose(found, encode(model.encoder, images), atol=1e-4)
    assert len(calls) == 1
    assert encoder_key(model.encoder) != key
    model.compute_plainly(False)
    assert encoder_key(model.encoder) == key
