"""Which examples an epoch shows, in which order and on which rank: seeded and resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch.utils.data import BatchSampler, Sampler

from spinevl.data.examples import grouped
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example


class EpochSampler(Sampler[int]):
    """A permutation that depends on the seed and the epoch alone, so that runs repeat exactly.

    Attributes:
        first_epoch: the epochs before the trainer's first.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = self.first_epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each of its epochs."""
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


class LengthBatches(Sampler[list[int]]):
    """Batches of like length in seeded order, for sequences that are padded.

    Args:
        lengths: of each item.
        n_batches: batches an epoch.
        seed: decides with the epoch which items of a length meet, and the order of batches.
    """

    def __init__(self, lengths: Sequence[int], *, n_batches: int, seed: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.n_batches = n_batches
        self.sampler = EpochSampler(len(lengths), seed=seed)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = torch.tensor(list(self.sampler))
        ordered = shuffled[self.lengths[shuffled].argsort(stable=True)]
        batches = ordered.tensor_split(self.n_batches)
        epoch = EpochSampler(self.n_batches, seed=self.sampler.seed)
        epoch.set_epoch(self.sampler.epoch)
        return iter([batches[number].tolist() for number in epoch])


class ShareOfBatches(Sampler[list[int]]):
    """One rank's share of batches that all ranks take together, each rank as many batches.

    A rank's batch is empty where there are fewer items than ranks.

    Args:
        batches: of all ranks; they depend on seed and epoch alone.
        rank, world: this process, and how many there are.

    Attributes:
        sampler: whose ``set_epoch`` the trainer calls.
        start: how many batches the next pass leaves out; passes after it are whole again.
    """

    def __init__(self, batches: BatchSampler | LengthBatches, *, rank: int, world: int) -> None:
        self.batches = batches
        self.sampler: EpochSampler = batches.sampler  # type: ignore[assignment]
        self.rank = rank
        self.world = world
        self.start = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        for batch in islice(self.batches, start, None):
            yield batch[self.rank :: self.world]


def whole_batches(size: int, batch_size: int, *, rank: int, world: int) -> list[list[int]]:
    """Every ``world``-th batch of items in order, and an empty one where the others have one more.

    What a rank computes of a batch is then what one process computes of it.
    """
    batches = [
        list(range(start, min(start + batch_size, size))) for start in range(0, size, batch_size)
    ]
    batches += [[]] * (-len(batches) % world)
    return batches[rank::world]


class RatioSampler(EpochSampler):
    """Indices of an epoch where each task's items appear ``ratio`` times on average.

    A task's epochs continue one stream of shuffled passes over its items, so that with a ratio of
    0.3 the first three epochs show different items, and none is seen twice before all were once.
    What an epoch holds depends on the seed and its number alone: a run that goes on at epoch 7
    reads what it would have read.

    Args:
        tasks: of each item.
        ratios: task -> ratio; 1 where not named.
        seed: of the order.

    Raises:
        UserError: a ratio names no task of the items, or nothing is left.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        ratios: Mapping[str, float],
        seed: int,
    ) -> None:
        self.items: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            self.items.setdefault(task, []).append(index)
        if unknown := [task for task in ratios if task not in self.items]:
            known = ", ".join(repr(task) for task in self.items)
            raise UserError(f"data.ratios names {unknown[0]!r}; the conversations' tasks: {known}")
        self.counts = {
            task: round(ratios.get(task, 1.0) * len(items)) for task, items in self.items.items()
        }
        total = sum(self.counts.values())
        if not total:
            raise UserError("data.ratios leave nothing to train on")
        super().__init__(total, seed=seed)

    def __iter__(self) -> Iterator[int]:
        chosen = [
            index
            for number, (task, count) in enumerate(self.counts.items())
            for index in self._part(number, self.items[task], count)
        ]
        order = torch.randperm(self.size, generator=self._generator(0, self.epoch)).tolist()
        return iter([chosen[place] for place in order])

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


def train_sampler(
    examples: Sequence[Example], *, ratios: Mapping[str, float] | None, seed: int
) -> EpochSampler:
    """The order of training groups: every patient once, or conversations in some ratios."""
    if ratios is None:
        return EpochSampler(len(grouped(examples)), seed=seed)
    return RatioSampler([one.key.task for one in examples], ratios=ratios, seed=seed)
