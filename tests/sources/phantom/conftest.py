"""Here phantoms are what is tested: each is drawn anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spinevl.sources.phantom import store
from spinevl.sources.phantom.render import render_case


@pytest.fixture(scope="module", autouse=True)
def _drawn_anew() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "render_case", render_case)
        yield
