"""Attention under masks on CPUs, against its formula in float64 and against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spinevl.models import masked_attention as module
from spinevl.models.fewer_passes import as_on_gpus, computed
from spinevl.models.masked_attention import additive_mask, masked_attention


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor
) -> torch.Tensor:
    """Attention in float64, one query head after the other."""
    query, key, value = (one.double() for one in (query, key, value))
    together = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        own = head // together
        scores = query[:, head] @ key[:, own].transpose(1, 2) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        heads.append(weights @ value[:, own])
    return torch.stack(heads, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize(("heads", "groups", "width"), [(6, 2, 16), (3, 1, 24), (2, 2, 16)])
def test_heads_that_share_keys_attend_each_by_itself(
    heads: int, groups: int, width: int, queries: int, dtype: torch.dtype
) -> None:
    query = drawn(3, heads, queries, 16, seed=0).to(dtype)
    key = drawn(3, groups, 43, 16, seed=1).to(dtype)
    value = drawn(3, groups, 43, width, seed=2).to(dtype)
    allowed = drawn(3, queries, 43, seed=3) > 0
    mask = additive_mask(allowed, dtype).unsqueeze(1)
    with torch.no_grad(), computed(True):
        found = masked_attention(query, key, value, mask, scaling=None)
    assert found.dtype == dtype
    exact = written_out(query, key, value, allowed)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=0)


def noted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The dropout of each call of torch's kernel."""
    found: list[float] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def noting(*given: Any, dropout_p: float = 0.0, **options: Any) -> torch.Tensor:
        found.append(dropout_p)
        return real(*given, dropout_p=dropout_p, **options)

    monkeypatch.setattr(module.functional, "scaled_dot_product_attention", noting)
    return found


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 4)])
@pytest.mark.parametrize("queries", [1, 4, 5, 30])
def test_few_rows_are_two_products(
    heads: int, groups: int, queries: int, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of keys with room behind them, as a decoding step has; what lies there is not read."""
    query = drawn(3, heads, queries, 16, seed=0).float()
    kept = (drawn(3, groups, 70, 16, seed=1).float(), drawn(3, groups, 70, 24, seed=2).float())
    for one in kept:
        one[:, :, 43:] = torch.nan
    key, value = (one[:, :, :43] for one in kept)
    allowed = drawn(3, queries, 43, seed=3) > 0
    mask = additive_mask(allowed, torch.float32).unsqueeze(1)
    kernels = noted(monkeypatch)
    with torch.no_grad(), computed(True):
        found = masked_attention(query, key, value, mask, scaling=scaling)
    assert bool(kernels) is (heads // groups * queries > 12)
    wanted = query * (scaling or 0.25) * 16**0.5
    exact = written_out(wanted, key, value, allowed)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=0)


def test_two_products_are_for_float32_answers_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, which autocast brings too, would round scores; others keep torch's kernel."""
    kernels = noted(monkeypatch)
    query, key = drawn(1, 2, 3, 8, seed=0).float(), drawn(1, 2, 5, 8, seed=1).float()
    mask = torch.zeros(1, 1, 3, 5)

    def output(dtype: torch.dtype = torch.float32, **options: Any) -> torch.Tensor:
        given = [one.to(dtype) for one in (query, key, key, mask)]
        return masked_attention(*given, scaling=None, **options)

    with torch.no_grad(), computed(True):
        expected = output()
        assert not kernels
        outputs = [output(torch.bfloat16)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs.append(output())
        with as_on_gpus():
            outputs.append(output())
        assert kernels == [0, 0, 0]
        output(dropout=0.5)
        assert kernels.pop() == 0.5
    with torch.no_grad(), computed(False):  # plain_layers
        outputs.append(output())
    with computed(True):
        outputs.append(output())
    assert kernels == [0] * 5
    for one in outputs:
        torch.testing.assert_close(one.float(), expected, atol=2e-2, rtol=0)


def test_rows_of_one_head_are_for_predictions_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass would keep their masks, and GPUs do not take them."""
    seen: list[int] = []
    real = module._grouped_attention

    def noting(*given: Any, **options: Any) -> torch.Tensor:
        seen.append(1)
        return real(*given, **options)

    monkeypatch.setattr(module, "_grouped_attention", noting)
    query, key = drawn(1, 4, 3, 8, seed=0), drawn(1, 2, 5, 8, seed=1)
    mask = torch.zeros(1, 1, 3, 5).bfloat16()

    def output() -> torch.Tensor:
        return masked_attention(query, key, key, mask, scaling=None)

    with computed(True):
        outputs = [output()]
        with torch.no_grad(), as_on_gpus():
            outputs.append(output())
    with torch.no_grad(), computed(False):  # plain_layers
        outputs.append(output())
    assert not seen
    with torch.no_grad(), computed(True):
        outputs.append(output())
    assert seen
    for one in outputs[1:]:
        torch.testing.assert_close(one, outputs[0], atol=1e-2, rtol=0)


def gradients(
    dtype: torch.dtype, *, heads: int, groups: int, scaling: float | None
) -> list[torch.Tensor]:
    """Of the queries, keys and values, which lie in memory as a decoder's do."""
    n, q, k, dim = 3, 37, 53, 64
    rows = [drawn(n, q, heads, dim, seed=0), *(drawn(n, k, groups, dim, seed=s) for s in (1, 2))]
    given = [one.to(dtype).transpose(1, 2).detach().requires_grad_() for one in rows]
    allowed = drawn(n, q, k, seed=3) > 0
    allowed[..., 0] = True
    mask = additive_mask(allowed, dtype).unsqueeze(1)
    output = masked_attention(*given, mask, scaling=scaling)
    above = drawn(n, heads, q, dim, seed=4).to(dtype)
    return [output.detach(), *torch.autograd.grad(output, given, above)]


@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1), (2, 2)])
def test_gradients_are_more_exact_than_torchs(
    heads: int, groups: int, scaling: float | None
) -> None:
    shape: dict[str, Any] = {"heads": heads, "groups": groups, "scaling": scaling}
    exact = gradients(torch.float64, **shape)
    torchs = gradients(torch.bfloat16, **shape)
    with computed(True):
        found = gradients(torch.bfloat16, **shape)
    assert torch.equal(found[0], torchs[0])
    for one, two, three in zip(found, torchs, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - three).norm() <= 1.05 * (two - three).norm()
        assert (one - three).norm() <= 0.01 * three.norm()


def test_it_is_for_bfloat16_and_what_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    real = module._HalfAttention.forward

    def noting(ctx: Any, query: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(query.dtype)
        return real(ctx, query, *rest)

    monkeypatch.setattr(module._HalfAttention, "forward", staticmethod(noting))
    shape: dict[str, Any] = {"heads": 2, "groups": 1, "scaling": None}
    gradients(torch.bfloat16, **shape)
    with computed(True):
        gradients(torch.float32, **shape)
        query, key = drawn(1, 2, 3, 8, seed=0), drawn(1, 1, 3, 8, seed=1)
        masked_attention(query, key, key, torch.zeros(1, 1, 3, 3).bfloat16(), scaling=None)
        assert seen == []
        gradients(torch.bfloat16, **shape)
    assert seen == [torch.bfloat16]


def test_many_scores_are_taken_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    shape: dict[str, Any] = {"heads": 4, "groups": 2, "scaling": None}
    with computed(True):
        whole = gradients(torch.bfloat16, **shape)
        for most in (1, 4 * 37 * 53):  # one context and head a step, or four
            monkeypatch.setattr(module, "_MOST_SCORES", most)
            for one, other in zip(gradients(torch.bfloat16, **shape), whole, strict=True):
                torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-9)


def test_values_may_be_wider_than_keys() -> None:
    query, key = drawn(1, 2, 3, 8, seed=0), drawn(1, 2, 4, 8, seed=1)
    value = drawn(1, 2, 4, 16, seed=2)
    given = [one.requires_grad_() for one in (query, key, value)]
    with computed(True):
        output = masked_attention(*given, torch.zeros(1, 1, 3, 4).bfloat16(), scaling=None)
    output.sum().backward()
    assert value.grad is not None
    assert value.grad.shape == value.shape
