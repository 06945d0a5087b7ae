"""Trainings of tiny models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.training.spec import TrainSpec

Make = Callable[..., TrainSpec]


@pytest.fixture(scope="session")
def make_spec(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Overrides -> a training on six phantoms, on the CPU."""
    cache = tmp_path_factory.mktemp("memory")
    words = [
        *("data.n_train=6", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
        *("trainer.max_epochs=1", "trainer.progress_bar=false", "trainer.accelerator=cpu"),
        f"cache_dir={cache}",
    ]

    @functools.cache
    def config(*more: str) -> dict[str, Any]:
        tiny = () if "llm=hf" in more else ("encoder.dim=16", "llm.width=32")
        return plain(compose("train", [*words, *tiny, *more]))

    def make(*more: str) -> TrainSpec:
        return TrainSpec.from_config(deepcopy(config(*more)))

    return make
