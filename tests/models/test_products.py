"""Linear layers by oneDNN against torch's own, on any processor that has the operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_llm import SMALL_DECODER
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.models.qwen2 import Qwen2Config

from spinevl.models import products
from spinevl.models.fewer_passes import computed
from spinevl.models.llm import CausalLM
from spinevl.models.products import linear, onednn_is_faster

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


def test_it_is_left_out_where_gradients_or_other_types_are(calls: list[tuple[int, ...]]) -> None:
    rows, weight = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    assert linear(rows, weight, None).requires_grad
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


def test_the_head_takes_them_where_nothing_is_learned(calls: list[tuple[int, ...]]) -> None:
    llm, hidden = decoder(), torch.randn(5, SMALL_DECODER["hidden_size"])
    calls.clear()
    learned = llm.logits(hidden)
    assert learned.requires_grad
    assert calls == []
    with torch.inference_mode():
        torch.testing.assert_close(llm.logits(hidden), learned.detach(), atol=1e-5, rtol=1e-5)
        assert calls == [tuple(hidden.shape)]
        llm.plain_layers = True
        llm.logits(hidden)
    assert len(calls) == 1
