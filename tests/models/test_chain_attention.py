"""Chains of a prefix tree without masks, against the masks that say the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_llm import write_small_llm
from torch.nn.functional import scaled_dot_product_attention

from spinevl.data.packing.attention_blocks import attention_blocks
from spinevl.data.packing.prefix_tree import PackedRow, pack
from spinevl.models import chain_attention, llm
from spinevl.models.chain_attention import computes_chains
from spinevl.models.llm import HFCausalLM
from spinevl.models.prefix_attention import BlockMasks
from spinevl.schema.batch import Chains
from spinevl.schema.prompt_batch import PromptBatch


def rows(seed: int) -> list[PackedRow]:
    """Two rows with long chains, of which some share what they begin with."""
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> tuple[int, ...]:
        return tuple(int(one) for one in rng.integers(0, 40, n))

    first, second = drawn(150), drawn(170)
    small = (*second, 50, *drawn(4))
    row = [first + drawn(180), first + drawn(200), small + drawn(20), small + drawn(31)]
    row += [second + drawn(12)]
    return [pack(some, [[(1, 2)]] * len(some)) for some in (row, [drawn(300), drawn(9)])]


def one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    chains: Chains,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """What FlashAttention computes, a chain at a time with a mask."""
    assert not dropout
    outputs = []
    bounds = zip(chains.query_start.tolist(), chains.key_start.tolist(), strict=True)
    for (q, k), (q_end, k_end) in pairwise(bounds):
        assert q_end - q <= chains.most_queries
        assert k_end - k <= chains.most_keys
        mask = torch.ones(q_end - q, k_end - k, dtype=torch.bool).tril(k_end - k - (q_end - q))
        parts = (query[q:q_end], key[k:k_end], value[k:k_end])
        output = scaled_dot_product_attention(
            *(one.transpose(0, 1)[None] for one in parts),
            attn_mask=mask,
            scale=scaling,
            enable_gqa=True,
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chains are computed here too; the list tells how many there were."""
    counts: list[int] = []

    def noted(*args: object) -> torch.Tensor:
        counts.append(len(args[3].query_start) - 1)  # type: ignore[attr-defined]
        return one_by_one(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(chain_attention, "_flash", noted)
    monkeypatch.setattr(llm, "computes_chains", lambda *_: True)
    return counts


@pytest.mark.parametrize("seed", range(4))
def test_chains_see_what_their_masks_say(seed: int, on_cpus: list[int]) -> None:
    packed = rows(seed)
    length = max(len(row.symbols) for row in packed)
    blocks, order = attention_blocks(packed, length=length)
    assert any(one.chains is None for one in blocks)  # small subtrees have branches
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, length, 8, generator=generator, requires_grad=True)
    key, value = (
        torch.randn(2, 2, length, 8, generator=generator, requires_grad=True) for _ in range(2)
    )
    real = torch.zeros(2, length, 1, 1)
    for number, row in enumerate(packed):
        real[number, : len(row.symbols)] = 1
    above = torch.randn(2, length, 4, 8, generator=generator) * real
    results = []
    for chains in (False, True):
        masks = BlockMasks.of(blocks, order, dtype=torch.float32, chains=chains)
        output = masks.attend(query, key, value, scaling=0.3, dropout=0.0) * real
        results.append((output, *torch.autograd.grad(output, (query, key, value), above)))
    assert on_cpus
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["chains", "plain", "compiled", "several sizes"])
def test_a_decoder_takes_chains_unless_they_do_not_suit_it(
    tmp_path: Path, case: str, on_cpus: list[int]
) -> None:
    decoder = HFCausalLM(path=write_small_llm(tmp_path), conversation="medmvl").eval()
    decoder.plain_layers = case == "plain"
    if case == "compiled":
        decoder.compile(backend="eager")
    if case == "several sizes":
        decoder.model.config.v_head_dim = 4
    packed = rows(0)
    length = max(len(row.symbols) for row in packed)
    ids = torch.zeros(2, length, dtype=torch.long)
    depth = torch.zeros_like(ids)
    for number, row in enumerate(packed):
        ids[number, : len(row.symbols)] = torch.from_numpy(row.symbols)
        depth[number, : len(row.symbols)] = torch.from_numpy(row.depth)
    blocks, order = attention_blocks(packed, length=length)
    batch = PromptBatch(
        input_ids=ids,
        visual_index=ids,
        position_ids=depth,
        attention=blocks,
        attention_order=order,
        last=torch.zeros(1, dtype=torch.long),
        lengths=torch.ones(1, dtype=torch.long),
        contexts=(),
    )
    embeddings = decoder.embed(ids)
    with torch.no_grad():
        masks = decoder.masks(batch, dtype=embeddings.dtype)
        found = decoder.hidden(embeddings, masks, depth)
        expected = decoder.hidden(
            embeddings, BlockMasks.of(blocks, order, dtype=embeddings.dtype), depth
        )
    assert bool(on_cpus) is (case == "chains")
    for number, row in enumerate(packed):
        n = len(row.symbols)
        torch.testing.assert_close(found[number, :n], expected[number, :n], rtol=1e-4, atol=1e-5)


def test_what_flash_attention_does_not_compute_has_masks(tmp_path: Path) -> None:
    assert not computes_chains(torch.device("cpu"), torch.bfloat16, 64)
    assert not computes_chains(torch.device("cuda"), torch.float32, 64)
    assert not computes_chains(torch.device("cuda"), torch.bfloat16, 60)
    assert not computes_chains(torch.device("cuda"), torch.bfloat16, 512)
    asked: list[torch.dtype] = []
    decoder = HFCausalLM(path=write_small_llm(tmp_path), conversation="medmvl")
    blocks, order = attention_blocks(rows(0), length=600)
    batch = SimpleNamespace(
        position_ids=order, attention=blocks, attention_order=order, subtree_end=None
    )
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr(llm, "computes_chains", lambda device, dtype, head: asked.append(dtype))
        decoder.masks(batch, dtype=torch.float32)  # type: ignore[arg-type]
    assert asked == [torch.bfloat16]  # what autocast computes in, not what the embeddings are


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_computes_chains_as_their_masks(dtype: torch.dtype) -> None:
    packed = rows(0)
    length = max(len(row.symbols) for row in packed)
    blocks, order = attention_blocks(packed, length=length)
    blocks, order = [one.each(torch.Tensor.cuda) for one in blocks], order.cuda()
    assert computes_chains(order.device, dtype, 64)
    generator = torch.Generator("cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda", "requires_grad": True, "dtype": dtype}
    query = torch.randn(2, 6, length, 64, **options)
    key, value = (torch.randn(2, 2, length, 64, **options) for _ in range(2))
    real = torch.zeros(2, length, 1, 1, device="cuda", dtype=dtype)
    for number, row in enumerate(packed):
        real[number, : len(row.symbols)] = 1
    results = []
    for chains in (False, True):
        masks = BlockMasks.of(blocks, order, dtype=dtype, chains=chains)
        output = masks.attend(query, key, value, scaling=None, dropout=0.0) * real
        above = torch.linspace(-1, 1, output.numel(), device="cuda").view_as(output).to(dtype)
        results.append((output, *torch.autograd.grad(output, (query, key, value), above)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-2 * float(other.abs().max()))
