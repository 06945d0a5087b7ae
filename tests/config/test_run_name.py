"""The names that a logger's run and its group have by default."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hydra.types import RunMode

from spinevl.config import resolvers


@pytest.mark.parametrize(
    ("dirname", "name"),
    [
        ("sag_image=[5,6,7],seed=0", "sag_image=5,6,7 seed=0"),
        ("data.labels=/home/me/l.json,logger=wandb,seed=1", "seed=1"),
        ("", "run"),
    ],
)
def test_a_run_is_named_by_what_varies(
    monkeypatch: pytest.MonkeyPatch, dirname: str, name: str
) -> None:
    job: Any = SimpleNamespace(name="run", override_dirname=dirname)
    cfg = SimpleNamespace(job=job, mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir="a/slices"))
    hydra = SimpleNamespace(initialized=lambda: True, get=lambda: cfg)
    monkeypatch.setattr(resolvers, "HydraConfig", hydra)
    assert resolvers.run_name() == name
    assert (resolvers.sweep_name(), resolvers.verb()) == ("slices", "run")
