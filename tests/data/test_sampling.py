"""How often an epoch shows a task's items."""

from __future__ import annotations

from collections import Counter

import pytest

from spinevl.data.sampling import RatioSampler, whole_batches
from spinevl.schema.errors import UserError

TASKS = ["report"] * 10 + ["vqa"] * 7 + [""] * 3


def _epoch(sampler: RatioSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


def test_each_task_has_its_share_of_an_epoch() -> None:
    sampler = RatioSampler(TASKS, ratios={"report": 0.5, "vqa": 2}, seed=0)
    shown = Counter(TASKS[index] for index in _epoch(sampler, 0))
    assert shown == {"report": 5, "vqa": 14, "": 3}
    assert len(sampler) == 22


def test_nothing_is_seen_twice_before_all_were_once() -> None:
    sampler = RatioSampler(TASKS, ratios={"report": 0.3}, seed=1)
    seen: Counter[int] = Counter()
    for number in range(10):  # 30 of the stream, three passes over ten items
        shown = [index for index in _epoch(sampler, number) if TASKS[index] == "report"]
        assert len(shown) == 3
        seen.update(shown)
        assert max(seen.values()) - min(seen.get(index, 0) for index in range(10)) <= 1
    assert set(seen.values()) == {3}


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    first = RatioSampler(TASKS, ratios={"vqa": 1.5}, seed=3)
    _epoch(first, 0), _epoch(first, 1)
    resumed = RatioSampler(TASKS, ratios={"vqa": 1.5}, seed=3)
    assert _epoch(resumed, 2) == _epoch(first, 2)
    assert _epoch(resumed, 2) != _epoch(first, 1)
    other = RatioSampler(TASKS, ratios={"vqa": 1.5}, seed=4)
    assert _epoch(other, 2) != _epoch(first, 2)


def test_every_whole_batch_has_one_rank_and_each_rank_as_many() -> None:
    shares = [whole_batches(7, 2, rank=rank, world=3) for rank in range(3)]
    assert shares == [[[0, 1], [6]], [[2, 3], []], [[4, 5], []]]
    assert whole_batches(0, 2, rank=1, world=2) == []


def test_a_ratio_of_no_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"names 'reports'; .* tasks: 'report', 'vqa', ''"):
        RatioSampler(TASKS, ratios={"reports": 1}, seed=0)
    with pytest.raises(UserError, match="leave nothing"):
        RatioSampler(["a"], ratios={"a": 0}, seed=0)
