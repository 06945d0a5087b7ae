"""A training keeps the memory that it frees where it has room for the gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spinevl.build.trust import NOTHING
from spinevl.data.study import Study
from spinevl.training.memory import keeping
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.keeping import keep_or_give_back
from spinevl.training.memory.room import Room

Make = Callable[..., Any]


@pytest.mark.parametrize(("times", "kept"), [(1.26, True), (1.24, False), (None, False)])
def test_memory_is_kept_where_there_is_room(
    make_spec: Make,
    study: Study,
    times: float | None,
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec("trainer.batch_patients=2")
    size = None if times is None else times * Estimator(spec, study)(2).total
    given_back: list[bool] = []
    monkeypatch.setattr(
        keeping, "room_on", lambda *_, **__: None if size is None else Room(int(size), "it")
    )
    monkeypatch.setattr(keeping, "give_back_large_blocks", lambda: given_back.append(True))
    state = torch.random.get_rng_state()
    assert keep_or_give_back(spec, study, trust=NOTHING) is kept
    assert given_back == ([] if kept else [True])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_an_estimate_large_blocks_are_given_back(
    make_spec: Make, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such layer")

    given_back: list[bool] = []
    monkeypatch.setattr(keeping, "Estimator", fails)
    monkeypatch.setattr(keeping, "give_back_large_blocks", lambda: given_back.append(True))
    assert not keep_or_give_back(make_spec(), study, trust=NOTHING)
    assert given_back == [True]
