"""The mean over ranks, on two of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed
from two_ranks import on_two_ranks

from spinevl.distributed.ranks import AGENT, mean_over_ranks, of_first, rank, world_size


def test_one_rank_keeps_its_value() -> None:
    assert mean_over_ranks(7.0, like=torch.zeros(1)) == 7.0


def test_what_a_cluster_says_of_other_processes_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (rank(), world_size()) == (0, 1)
    monkeypatch.setenv(AGENT, "1234")
    assert (rank(), world_size()) == (1, 2)


def _rank(rank: int) -> None:
    # each rank's loss is the sum over its own tokens; data parallelism averages the gradients
    tokens = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0])][rank]
    weight = torch.ones(1, requires_grad=True)
    loss = (weight * tokens).sum() / mean_over_ranks(float(len(tokens)), like=weight)
    loss.backward()
    assert weight.grad is not None
    distributed.all_reduce(weight.grad)
    assert torch.isclose(weight.grad / 2, torch.tensor(3.5))  # (1 + 2 + 6 + 5) / 4


def test_two_ranks_average_over_the_tokens_of_both(tmp_path: Path) -> None:
    on_two_ranks(_rank, tmp_path)


def test_without_a_group_the_first_process_is_the_only_one() -> None:
    def fails() -> int:
        raise ValueError("no")

    assert of_first(lambda: 3, ValueError) == (3, None)
    result, error = of_first(fails, ValueError)
    assert (result, str(error)) == (None, "no")
    with pytest.raises(ValueError, match="no"):
        of_first(fails, OSError)
