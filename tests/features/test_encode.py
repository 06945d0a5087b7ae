"""Encoding in parts: on a GPU the images of the next part are made ready meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from spinevl.features import encode as module
from spinevl.features.encode import encoded_in_parts
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.schema.errors import UserError

NAMES = [f"p{k}" for k in range(300)]


def load(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[1:])).integers(0, 255, (64, 64), dtype=np.uint8)


def encoded(names: list[str], loads=load) -> tuple[list[np.ndarray], list[int]]:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=8).eval()
    counts: list[int] = []
    parts = encoded_in_parts(
        encoder, names, load=loads, autocast=None, took=lambda _, n: counts.append(n)
    )
    return list(parts), counts


def test_images_made_ready_meanwhile_are_encoded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, counts = encoded(NAMES)
    assert sum(counts) == len(NAMES)
    assert len(counts) > 2
    threads = set()

    def noted(name: str) -> np.ndarray:
        threads.add(threading.current_thread())
        return load(name)

    monkeypatch.setattr(module, "_before", module._meanwhile)
    found, again = encoded(NAMES, noted)
    assert again == counts
    assert threading.main_thread() not in threads
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert encoded([]) == ([], [])


def test_an_image_that_cannot_be_read_ends_it_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_before", module._meanwhile)

    def fails(name: str) -> np.ndarray:
        if name == "p250":
            raise UserError("p250: not an image")
        return load(name)

    with pytest.raises(UserError, match="p250: not an image"):
        encoded(NAMES, fails)
