"""FlexAttention over packed trees: its tiles, and what it computes, against dense masks."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask

from spinevl.config.options import Attention
from spinevl.data.packing.attention_blocks import attention_fields
from spinevl.data.packing.prefix_tree import PackedRow, join, pack
from spinevl.models import tree_mask
from spinevl.models.llm import CausalLM
from spinevl.models.tree_mask import TreeMask
from spinevl.schema.batch import FLEX_TILE
from spinevl.schema.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def tree(seed: int, branches: int, longest: int) -> PackedRow:
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, 9, longest).tolist()
    sequences = []
    for _ in range(branches):
        own = rng.integers(0, 9, rng.integers(2, longest + 2)).tolist()
        sequences.append(stem[: rng.integers(1, longest + 1)] + own)
    return pack(sequences, [[(len(one) - 1, len(one))] for one in sequences])


ROWS = {
    "one chain": [tree(0, 1, 300)],
    "shorter than a tile": [tree(1, 3, 30)],
    "a tree": [tree(2, 9, 250)],
    "rows of many lengths": [
        tree(3, 4, 200),
        join([tree(4, 3, 90), tree(5, 1, 400)]),
        tree(6, 1, 2),
    ],
    "whole tiles": [pack([list(range(4 * FLEX_TILE + 1))], [[(1, 2)]])],
}


def ends(rows: list[PackedRow]) -> torch.Tensor:
    length = max(len(row.symbols) for row in rows)
    told = attention_fields(rows, length=length, attention=Attention.flex)
    assert told["attention"] == ()
    return told["subtree_end"]


def seen(rows: list[PackedRow], length: int) -> torch.Tensor:
    """[B, L, L] by the paths of places; padding sees itself."""
    dense = np.zeros((len(rows), length, length), dtype=bool)
    dense[:, np.arange(length), np.arange(length)] = True
    for number, row in enumerate(rows):
        path: list[int] = []
        for place, depth in enumerate(row.depth.tolist()):
            path[depth:] = [place]
            dense[number, place, path] = True
    return torch.from_numpy(dense)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_tiles_are_those_that_flex_attention_finds_itself(rows: list[PackedRow]) -> None:
    tiles = TreeMask.of(ends(rows)).tiles
    count, length = len(rows), tiles.seq_lengths[0]
    theirs = create_block_mask(tiles.mask_mod, count, None, length, length, device="cpu")
    for kind in ("kv", "full_kv"):
        ours, found = (getattr(one, f"{kind}_num_blocks") for one in (tiles, theirs))
        assert torch.equal(ours, found)
        listed = torch.arange(tiles.kv_indices.shape[-1]) < ours[..., None]
        ours, found = (getattr(one, f"{kind}_indices") for one in (tiles, theirs))
        assert torch.equal(ours[listed], found[listed])
    assert torch.equal(tiles.q_num_blocks, theirs.q_num_blocks)


def attended_by(rows: list[PackedRow], mask: TreeMask) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and torch's own with a dense mask, of grouped heads."""
    length = mask.tiles.seq_lengths[0]
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(len(rows), heads, length, 16, generator=generator) for heads in (4, 2, 2)
    )
    theirs = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen(rows, length)[:, None], scale=0.3, enable_gqa=True
    )
    return mask.attend(query, key, value, scaling=0.3), theirs.transpose(1, 2)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_token_attends_to_its_ancestors_and_itself(rows: list[PackedRow]) -> None:
    torch.testing.assert_close(*attended_by(rows, TreeMask.of(ends(rows))), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiled with g++")
def test_what_is_compiled_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled = tree_mask._flex_attention(True)
    monkeypatch.setattr(tree_mask, "_flex_attention", lambda _: compiled)
    rows = ROWS["rows of many lengths"]
    with torch.no_grad():
        ours, theirs = attended_by(rows, TreeMask.of(ends(rows)))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "learn", "why"),
    [
        ({}, True, None),
        ({"attention_dropout": 0.1}, False, None),
        ({"attention_dropout": 0.1}, True, r"found attention_dropout=0\.1 in its config"),
        ({"head_dim": 8}, False, "found heads of 8 numbers.*attention=blocks"),
        ({"head_dim": None, "num_attention_heads": 16}, False, "found heads of 4 numbers"),
    ],
)
def test_a_decoder_that_flex_attention_cannot_compute_is_refused(
    changed: dict[str, object], learn: bool, why: str | None
) -> None:
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    llm = CausalLM.__new__(CausalLM)
    torch.nn.Module.__init__(llm)
    llm.dim = 64
    llm.model = SimpleNamespace(config=SimpleNamespace(**{**config, **changed}))
    with pytest.raises(UserError, match=why) if why else nullcontext():
        llm.check_flex(learn=learn)


def test_half_precision_under_autocast_is_computed_in_it() -> None:
    """Rotary embeddings give float32 queries there, beside values in bfloat16."""
    mask = TreeMask.of(ends(ROWS["a tree"]))
    length = mask.tiles.seq_lengths[0]
    query, key, value = torch.randn(3, 1, 2, length, 16).unbind()
    exact = mask.attend(query, key, value, scaling=None)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = mask.attend(query, key, value.bfloat16(), scaling=None)
    torch.testing.assert_close(rounded.float(), exact, atol=3e-2, rtol=3e-2)
