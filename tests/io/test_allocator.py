"""Only a training of a large model changes how memory is taken from the system."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest

from spinevl.io.allocator import give_back_large_blocks


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize(("weights", "expected"), [(2**28, []), (2**28 + 1, [(-3, 2**20)])])
def test_large_models_alone(
    monkeypatch: pytest.MonkeyPatch, weights: int, expected: list[tuple[int, int]]
) -> None:
    told = []

    class Library:
        gnu_get_libc_version = None

        def mallopt(self, *arguments: int) -> None:
            told.append(arguments)

    def library(_: Any) -> Library:
        return Library()

    monkeypatch.setattr(ctypes, "CDLL", library)
    give_back_large_blocks(weights=weights)
    assert told == expected
