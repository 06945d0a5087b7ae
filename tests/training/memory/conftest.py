"""A study of a few phantoms, and trainings of tiny models on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.study import Study, open_study
from spinevl.training.spec import TrainSpec

Make = Callable[..., TrainSpec]


@pytest.fixture(scope="session")
def make_spec(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Overrides -> a training on six phantoms, on the CPU."""
    cache = tmp_path_factory.mktemp("memory")
    words = [
        *("data.n_train=6", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
        *("trainer.max_epochs=1", "trainer.progress_bar=false", "trainer.accelerator=cpu"),
        *("encoder.dim=16", "llm.width=32", f"cache_dir={cache}"),
    ]
    return lambda *more: TrainSpec.from_config(plain(compose("train", [*words, *more])))


@pytest.fixture(scope="session")
def study(make_spec: Make) -> Study:
    """The study of every spec that ``make_spec`` makes without other data."""
    return open_study(make_spec().study, ("train", "dev"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A job's folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
