"""Norms and rotary embeddings in fewer passes: transformers' numbers, and their gradients."""

from __future__ import annotations

import copy
import functools
import threading
from typing import Any

import pytest
import torch
from small_llm import write_small_llm
from torch import nn
from transformers.models.ernie4_5 import modeling_ernie4_5
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from spinevl.models import fewer_passes
from spinevl.models import llm as llm_module
from spinevl.models.fewer_passes import (
    computed,
    fused_rms_norm,
    install,
    rms_norm,
    rotated,
    tried,
)
from spinevl.models.llm import HFCausalLM, TinyLLM
from spinevl.models.prefix_attention import BlockMasks
from spinevl.models.recompute import _recomputed
from spinevl.models.small_copy import small_copy
from spinevl.schema.batch import AttentionBlocks

TYPES = (torch.float32, torch.bfloat16)


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul_(3).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 37, 96), (3, 5, 4, 16)])
def test_an_rms_norm_is_that_of_transformers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    theirs = LlamaRMSNorm(shape[-1], eps=1e-3).to(dtype)
    theirs.weight.data = drawn(shape[-1], dtype=dtype, seed=1)
    states = drawn(*shape, dtype=dtype)
    states[0, 0] *= 1e-3  # where epsilon counts
    with torch.no_grad():
        expected, found = theirs(states), rms_norm(states, theirs.weight, 1e-3)
        # as exact as theirs: one rounding of bfloat16 apart at most, and that rarely
        wide = states.double()
        exact = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt() * theirs.weight.double()
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2**-7 if dtype.itemsize == 2 else 1e-6, atol=0)
    assert (found - exact).abs().mean() <= 1.01 * (expected - exact).abs().mean() + 1e-7
    assert (states == drawn(*shape, dtype=dtype))[1:].all()  # what it is given stays


@pytest.mark.parametrize("dtype", TYPES)
def test_torchs_own_norm_is_that_of_transformers_under_autocast_too(dtype: torch.dtype) -> None:
    theirs = LlamaRMSNorm(96, eps=1e-3).to(dtype)
    theirs.weight.data = drawn(96, dtype=dtype, seed=1)
    states = drawn(2, 37, 96, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused_rms_norm(states, theirs.weight, 1e-3)
    assert found.dtype == dtype
    rtol = 2**-7 if dtype.itemsize == 2 else 1e-6
    torch.testing.assert_close(found, theirs(states), rtol=rtol, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_gpu_computes_norms_and_rotary_embeddings_as_transformers(
    dtype: torch.dtype, autocast: bool
) -> None:
    norm = LlamaRMSNorm(64, eps=1e-3).to("cuda", dtype)
    norm.weight.data = drawn(64, dtype=dtype, seed=1).cuda()
    angles = drawn(2, 7, 32, dtype=torch.float32, seed=2).repeat(1, 1, 2).cuda()
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    above = drawn(2, 3, 7, 64, dtype=dtype, seed=3).cuda()
    results = []
    for ours in (True, False):
        norm.weight.grad = None
        states = drawn(2, 3, 7, 64, dtype=dtype).cuda().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            if ours:
                normed = rms_norm(states, norm.weight, 1e-3)
                turned = rotated(normed, cos[:, None], sin[:, None])
            else:
                normed = norm(states)
                turned, _ = apply_rotary_pos_emb(normed, normed, cos, sin)
        turned.backward(above)
        assert turned.dtype == dtype
        results.append((normed, turned, states.grad, norm.weight.grad))
    for found, expected in zip(*results, strict=True):
        assert found is not None
        assert expected is not None
        near = 1e-5 if dtype == torch.float32 else 2**-6
        torch.testing.assert_close(found, expected, rtol=0, atol=near * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", TYPES)
def test_rotary_embeddings_are_those_of_transformers(dtype: torch.dtype) -> None:
    angles = drawn(2, 7, 8, dtype=torch.float32, seed=2).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    q = drawn(2, 7, 3, 16, dtype=dtype).transpose(1, 2)
    k = drawn(2, 7, 1, 16, dtype=dtype, seed=1).transpose(1, 2)
    given = q.clone()
    for states, expected in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        found = rotated(states, cos[:, None], sin[:, None])
        atol = 1e-6 if dtype == torch.float32 else 2**-6
        torch.testing.assert_close(found, expected, rtol=0, atol=atol * float(states.abs().max()))
    assert torch.equal(q, given)


@pytest.mark.parametrize(
    "kind", ["qwen2", "qwen3", "llama", "gemma", "phi", "phi3", "olmo2", "ernie4_5"]
)
def test_hidden_states_are_those_of_plain_layers(kind: str, tmp_path: Any) -> None:
    llm = HFCausalLM(path=write_small_llm(tmp_path, kind), conversation="medmvl", end_token="A")
    places = torch.arange(10)[None]
    block = AttentionBlocks(places, places, torch.ones(1, 10, 10, dtype=torch.bool).tril())
    masks = BlockMasks.of([block], places[0], dtype=torch.float32)
    results = []
    with torch.no_grad():
        for plain in (True, False):
            llm.plain_layers = plain
            results.append(llm.hidden(llm.embed(places), masks, places))
    torch.testing.assert_close(results[1], results[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma", "phi", "olmo2", "ernie4_5"])
def test_gradients_are_those_of_plain_layers(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = HFCausalLM(path=write_small_llm(tmp_path, kind), conversation="medmvl", end_token="A")
    seen = count(monkeypatch)
    places = torch.arange(10)[None]
    block = AttentionBlocks(places, places, torch.ones(1, 10, 10, dtype=torch.bool).tril())
    masks = BlockMasks.of([block], places[0], dtype=torch.float32)
    read = torch.tensor([3, 9])
    results = []
    for plain in (True, False):
        llm.plain_layers = plain
        llm.zero_grad()
        hidden = llm.hidden(llm.embed(places), masks, places, read)[0, read]
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).sum().backward()
        results.append({name: one.grad for name, one in llm.named_parameters()})
        assert bool(seen) != plain or kind in ("phi", "gemma")  # have no plain RMSNorms
    assert any(one is not None and one.any() for one in results[0].values())
    for name, one in results[0].items():
        if one is not None:
            torch.testing.assert_close(results[1][name], one, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_gradients_of_an_rms_norm_are_as_exact_as_transformers(dtype: torch.dtype) -> None:
    theirs = LlamaRMSNorm(96, eps=1e-3).to(dtype)
    theirs.weight.data = drawn(96, dtype=dtype, seed=1)
    states, above = drawn(2, 37, 96, dtype=dtype), drawn(2, 37, 96, dtype=dtype, seed=2)
    states[0, 0] *= 1e-3  # where epsilon counts

    def gradients(function: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        given = [one.detach().to(dtype).requires_grad_() for one in (states, theirs.weight)]
        return list(torch.autograd.grad(function(*given), given, above.to(dtype)))

    def written_out(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        kind = states.dtype
        wide = states if kind == torch.float64 else states.float()
        wide = wide * (wide.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
        return weight * wide.to(kind)

    exact = gradients(written_out, torch.float64)
    expected = gradients(written_out, dtype)
    found = gradients(lambda *given: rms_norm(*given, 1e-3), dtype)
    for one, two, three in zip(found, expected, exact, strict=True):
        assert one.dtype == dtype
        assert (one - three).norm() <= 1.5 * (two - three).norm() + 1e-6 * three.norm()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_gradients_of_a_rotation_are_those_of_transformers(dtype: torch.dtype) -> None:
    angles = drawn(1, 7, 8, dtype=torch.float32, seed=2).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    q = drawn(1, 7, 3, 16, dtype=dtype).transpose(1, 2).detach().requires_grad_()
    above = drawn(1, 3, 7, 16, dtype=dtype, seed=3)
    (expected,) = torch.autograd.grad(apply_rotary_pos_emb(q, q, cos, sin)[0], q, above)
    (found,) = torch.autograd.grad(rotated(q, cos[:, None], sin[:, None]), q, above)
    atol = 1e-6 if dtype == torch.float32 else 2**-6
    torch.testing.assert_close(found, expected, rtol=0, atol=atol * float(above.abs().max()))


def test_layers_that_are_computed_again_take_the_same_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = TinyLLM(width=32, layers=1, heads=4)
    places = torch.arange(6)[None]
    layer = llm.model.base_model.layers[0]
    gradients = []
    for again in (False, True):
        if again:
            layer.forward = functools.partial(_recomputed, layer.forward)
        llm.zero_grad()
        seen = count(monkeypatch)
        with computed(True):
            hidden = llm.model.base_model(places).last_hidden_state
        hidden.square().sum().backward()
        assert seen.count("rotated") == (4 if again else 2)
        gradients.append(layer.mlp.up_proj.weight.grad)
    assert torch.equal(*gradients)


def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each norm and rotation that takes fewer passes."""
    seen: list[str] = []
    for name in ("rms_norm", "rotated"):
        real = getattr(fewer_passes, name)

        def noting(*given: Any, name: str = name, real: Any = real) -> Any:
            seen.append(name)
            return real(*given)

        monkeypatch.setattr(fewer_passes, name, noting)
    return seen


def test_they_are_used_only_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = TinyLLM(width=32, layers=2, heads=4)
    seen = count(monkeypatch)
    places = torch.arange(6)[None]
    with torch.no_grad():
        llm.model.base_model(places)  # not called by us
        assert seen == []
        with computed(True):
            llm.model.base_model(places)
        assert (seen.count("rms_norm"), seen.count("rotated")) == (2 * 2 + 1, 2 * 2)
        seen.clear()
        with computed(True):
            other = threading.Thread(target=lambda: llm.model.base_model(places))
            other.start()
            other.join()
        with computed(True), computed(False):
            llm.model.base_model(places)
        with computed(True, norms=False):
            llm.model.base_model(places)
    assert seen == []


def test_a_copy_of_a_decoder_has_norms_of_its_own() -> None:
    llm = TinyLLM(width=32, layers=1, heads=4)
    copied = copy.deepcopy(llm.model)
    with torch.no_grad(), computed(True):
        copied.base_model.norm.weight.fill_(0.0)
        assert copied.base_model(torch.arange(3)[None]).last_hidden_state.abs().max() == 0
        assert llm.model.base_model(torch.arange(3)[None]).last_hidden_state.abs().max() > 0


class Shifted(nn.Module):
    """Has a weight and an eps, as an RMSNorm has, and is none."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = 1e-6

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.weight * (states - states.mean(-1, keepdim=True))


def test_other_norms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_copy(TinyLLM(width=32, layers=1, heads=4).model)
    model.base_model.norm = Shifted(model.config.hidden_size)
    gemma = GemmaRMSNorm(model.config.hidden_size)  # multiplies by 1 + weight
    gemma.weight.data.fill_(0.5)
    model.base_model.layers[0].input_layernorm = gemma
    assert {one.__name__ for one in tried(model)} == {"Qwen2RMSNorm"}
    seen = count(monkeypatch)
    with torch.no_grad(), computed(True):
        model.base_model(torch.arange(3)[None])
    assert seen.count("rms_norm") == 1
    install(model, ())


def test_a_decoder_whose_trial_fails_takes_no_fewer_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fewer_passes, "tried", lambda _: frozenset())
    monkeypatch.setattr(llm_module, "_trials", {})
    llm = TinyLLM(width=32, layers=1, heads=4)
    seen = count(monkeypatch)
    places = torch.arange(4)[None]
    block = AttentionBlocks(places, places, torch.ones(1, 4, 4, dtype=torch.bool).tril())
    with torch.no_grad():
        llm.hidden(
            llm.embed(places), BlockMasks.of([block], places[0], dtype=torch.float32), places
        )
    assert seen == []


def test_a_rotation_of_other_pairs_is_left_alone(tmp_path: Any) -> None:
    path = write_small_llm(tmp_path, "ernie4_5")
    llm = HFCausalLM(path=path, conversation="medmvl", end_token="A")
    assert llm.takes_fewer_passes  # its norms are plain ones
    assert not hasattr(modeling_ernie4_5.apply_rotary_pos_emb, "of_spinevl")
