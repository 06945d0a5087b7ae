"""An epoch with so much of every task: seeded, resumable, of one length on every rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import Sampler


class RatioSampler(Sampler[int]):
    """Indices of an epoch where each task's items appear ``ratio`` times on average.

    A task's epochs continue one stream of shuffled passes over its items, so that with a ratio of
    0.3 the first three epochs show different items, and none is seen twice before all were once.
    What an epoch holds depends on the seed and its number alone: a run that goes on at epoch 7
    reads what it would have read.

    Args:
        tasks: of each item.
        ratios: task -> ratio; 1 where not named.
        seed: of the order.
        rank, world: this process takes every ``world``-th; the last ones are repeated from the
            start, so that no rank waits for another.

    Raises:
        ValueError: a ratio names no task of the items, or nothing is left.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        ratios: Mapping[str, float],
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.items: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            self.items.setdefault(task, []).append(index)
        if unknown := [task for task in ratios if task not in self.items]:
            known = ", ".join(repr(task) for task in self.items)
            raise ValueError(f"data.ratios names {unknown[0]!r}; the conversations' tasks: {known}")
        self.counts = {
            task: round(ratios.get(task, 1.0) * len(items)) for task, items in self.items.items()
        }
        self.total = sum(self.counts.values())
        if not self.total:
            raise ValueError("data.ratios leave nothing to train on")
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.total // self.world)

    def __iter__(self) -> Iterator[int]:
        chosen = [
            index
            for number, (task, count) in enumerate(self.counts.items())
            for index in self._part(number, self.items[task], count)
        ]
        order = torch.randperm(self.total, generator=self._generator(0, self.epoch)).tolist()
        shuffled = [chosen[place] for place in order]
        padded = [shuffled[k % self.total] for k in range(len(self) * self.world)]
        return iter(padded[self.rank :: self.world])

    def _part(self, number: int, items: Sequence[int], count: int) -> Iterator[int]:
        """This epoch's stretch of a task's stream of passes."""
        for place in range(self.epoch * count, (self.epoch + 1) * count):
            lap, step = divmod(place, len(items))
            if step == 0 or place == self.epoch * count:
                generator = self._generator(number + 1, lap)
                order = torch.randperm(len(items), generator=generator).tolist()
            yield items[order[step]]

    def _generator(self, stream: int, lap: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {stream} {lap}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
