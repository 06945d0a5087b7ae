"""Connectors against plain loops over the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spinevl.models.connector.attn_pooling import AttnPoolingConnector
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.connector.pixel_shuffle import PixelShuffleConnector
from spinevl.models.connector.resampler import ResamplerConnector
from spinevl.models.connector.spatial_pooling import SpatialPoolingConnector

DIM = 8


def made(kind: Any, grid: tuple[int, ...], **own: Any) -> Any:
    torch.manual_seed(0)
    tokens = int(np.prod(grid))
    return kind(in_dim=DIM, out_dim=12, in_tokens=tokens, in_grid=grid, **own).eval()


def cells(grid: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(2, int(np.prod(grid)), DIM, generator=torch.Generator().manual_seed(1))


def place(grid: tuple[int, ...], index: tuple[int, ...]) -> int:
    """The token of a cell, row by row."""
    return int(np.ravel_multi_index(index, grid))


@pytest.mark.parametrize("grid", [(4, 6), (2, 4, 4)])
@torch.inference_mode()
def test_spatial_pooling_averages_neighbours(grid: tuple[int, ...]) -> None:
    connector, features = made(SpatialPoolingConnector, grid), cells(grid)
    small = tuple(side // 2 for side in grid)
    rows = []
    for index in np.ndindex(small):
        corners = np.ndindex((2,) * len(grid))
        own = [
            place(grid, tuple(2 * i + c for i, c in zip(index, corner, strict=True)))
            for corner in corners
        ]
        rows.append(features[:, own].mean(dim=1))
    wanted = connector.connector(torch.stack(rows, dim=1))
    assert connector.tokens == wanted.shape[1]
    torch.testing.assert_close(connector(features), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(4, 6), (3, 4, 4)])
@torch.inference_mode()
def test_pixel_shuffle_joins_neighbours_of_a_slice(grid: tuple[int, ...]) -> None:
    connector, features = made(PixelShuffleConnector, grid), cells(grid)
    *slices, height, width = grid
    rows = []
    for *at, row, column in np.ndindex((*slices, height // 2, width // 2)):
        own = [
            place(grid, (*at, 2 * row + down, 2 * column + right))
            for down in (0, 1)
            for right in (0, 1)
        ]
        rows.append(torch.cat([features[:, token] for token in own], dim=1))
    wanted = connector.connector(torch.stack(rows, dim=1))
    assert connector.tokens == wanted.shape[1]
    torch.testing.assert_close(connector(features), wanted, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_attention_pooling_weighs_values_by_its_queries() -> None:
    connector = made(AttnPoolingConnector, (2, 3), tokens=5, heads=2)
    features = cells((2, 3))
    weight, bias = connector.attn.in_proj_weight, connector.attn.in_proj_bias
    query = connector.query @ weight[:DIM].T + bias[:DIM]
    key = features @ weight[DIM : 2 * DIM].T + bias[DIM : 2 * DIM]
    value = features @ weight[2 * DIM :].T + bias[2 * DIM :]
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[:, head] @ key[..., head].transpose(1, 2) / 2
        heads.append(scores.softmax(-1) @ value[..., head])
    pooled = connector.attn.out_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(connector(features), connector.connector(pooled), atol=1e-6, rtol=0)


def test_attention_pooling_has_a_query_for_each_cell_of_a_slice() -> None:
    assert made(AttnPoolingConnector, (32, 3, 4)).query.shape == (12, DIM)
    assert made(AttnPoolingConnector, (5, 4)).tokens == 20


@torch.inference_mode()
def test_the_resampler_attends_to_features_and_latents() -> None:
    connector = made(ResamplerConnector, (2, 3), tokens=4, layers=1, heads=2)
    features = cells((2, 3))
    (layer,) = connector.layers
    own = layer.norm_latents(connector.latents.expand(2, -1, -1))
    inputs = torch.cat([layer.norm_features(features), own], dim=1)
    # a head's keys and values stand side by side
    weight = layer.key_value.weight.unflatten(0, (2, 2, 4))
    heads = []
    for head in range(2):
        query = own @ layer.query.weight[4 * head : 4 * head + 4].T
        key, value = inputs @ weight[head, 0].T, inputs @ weight[head, 1].T
        heads.append((query @ key.transpose(1, 2) / 2).softmax(-1) @ value)
    latents = connector.latents + layer.output(torch.cat(heads, dim=-1))
    latents = latents + layer.feed_forward(latents)
    wanted = connector.project(connector.norm(latents))
    torch.testing.assert_close(connector(features), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "own", "message"),
    [
        (SpatialPoolingConnector, {"pool": 4}, r"connector\.pool=4 does not divide .* 6 x 8"),
        (PixelShuffleConnector, {"scale": 3}, r"connector\.scale=3 does not divide .* 6 x 8"),
        (AttnPoolingConnector, {"tokens": 0}, r"connector\.tokens=0: expected 1 or more"),
        (AttnPoolingConnector, {"heads": 3}, r"connector\.heads=3 does not divide"),
        (AttnPoolingConnector, {"heads": 0}, r"connector\.heads=0 does not divide"),
        (ResamplerConnector, {"heads": 0}, r"connector\.heads=0 does not divide"),
        (ResamplerConnector, {"layers": 0}, "layers=0: expected 1 or more"),
        (MLPConnector, {"layers": 0}, r"connector\.layers=0: expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_line(kind: Any, own: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(kind, (6, 8), **own)
