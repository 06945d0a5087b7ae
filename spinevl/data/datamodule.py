"""Training and dev batches of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from spinevl.data.examples import grouped
from spinevl.data.loader import make_loader
from spinevl.data.packing.collate import Collator
from spinevl.data.sampling import LengthBatches, train_sampler
from spinevl.schema.batch import Batch
from spinevl.schema.example import Example


class Steps:
    """The batches of a loader, told how many targets their whole optimizer step has.

    A step's loss is the mean over the answers (or their tokens) of all its batches, not the mean of
    their means; so a batch must know its step's number before its gradient is taken.

    Args:
        loader: the batches.
        accumulate: batches a step; the last step of an epoch may have fewer.
        limit: batches of an epoch that are trained; None is all.
    """

    def __init__(
        self, loader: DataLoader[Batch], accumulate: int, *, limit: int | None = None
    ) -> None:
        self.loader = loader
        self.accumulate = accumulate
        self.limit = limit
        self.sampler = loader.sampler  # the trainer tells it the epoch
        self.batch_sampler = loader.batch_sampler

    def __len__(self) -> int:
        return len(range(len(self.loader))[: self.limit])

    def __iter__(self) -> Iterator[Batch]:
        step: list[Batch] = []
        for batch in islice(self.loader, self.limit):
            step.append(batch)
            if len(step) == self.accumulate:
                yield from self._normalised(step)
                step = []
        yield from self._normalised(step)

    def _normalised(self, step: Sequence[Batch]) -> Iterator[Batch]:
        # the trainer divides each loss by ``accumulate``, in the last step of an epoch too
        answers = sum(batch.answer_divisor for batch in step) / self.accumulate
        targets = max(sum(batch.auxiliary_divisor for batch in step), 1.0) / self.accumulate
        for batch in step:
            yield replace(batch, answer_divisor=answers, auxiliary_divisor=targets)


class ExampleDataModule(pl.LightningDataModule):
    """Batches of whole patients, or of conversations.

    Args:
        train, dev: the examples of each side; dev may be empty.
        collate: lays out training batches.
        ratios: task -> how often an epoch shows its conversations; None shows every group once.
        batch_size: patients, or conversations, a training batch.
        seed: of the order.
        num_workers: loader processes; 0 is fastest for images that fit in memory.
        accumulate: batches an optimizer step.

    Attributes:
        train_batches: training batches an epoch.
        limit: how many of them are trained; None is all.
        first_epoch: the epochs before the trainer's first.

    Raises:
        UserError: ratios that do not fit the examples.
    """

    def __init__(
        self,
        train: Sequence[Example],
        dev: Sequence[Example],
        *,
        collate: Collator,
        ratios: Mapping[str, float] | None,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.train = train
        self.dev = dev
        self.collate = collate
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.accumulate = accumulate
        self.limit: int | None = None
        self.first_epoch = 0
        self.ratios = ratios
        self.sampler = train_sampler(train, ratios=ratios, seed=seed)
        self.train_batches = -(-len(self.sampler) // batch_size)

    def train_dataloader(self) -> Steps:
        """Shuffled groups; the last, smaller batch is kept.

        Without packing, patients' questions one by one instead, batches of like length.
        """
        if self.collate.packing == "off" and self.ratios is None:
            questions = [[pair] for group in grouped(self.train) for pair in group]
            lengths = [self.collate.length(example) for ((_, example),) in questions]
            batches = LengthBatches(lengths, n_batches=self.train_batches, seed=self.seed)
            batches.sampler.first_epoch = self.first_epoch
            loader = self._loader(questions, self.collate, batch_sampler=batches)
        else:
            self.sampler.first_epoch = self.first_epoch
            options: dict[str, Any] = {"batch_size": self.batch_size, "sampler": self.sampler}
            loader = self._loader(grouped(self.train), self.collate, **options)
        return Steps(loader, self.accumulate, limit=self.limit)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Dev examples in order; options take no gradients, so four times as many at once."""
        several = 4 if self.ratios is None else 1
        score = self.collate.to_score()
        return self._loader(grouped(self.dev), score, batch_size=several * self.batch_size)

    def _loader(
        self, groups: Sequence[Any], collate: Callable[..., Batch], **options: Any
    ) -> DataLoader[Batch]:
        return make_loader(groups, collate, num_workers=self.num_workers, **options)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Lightning's hook: a Batch moves itself."""
        return batch.to(device, non_blocking=True)
