"""Patients in seeded order, a batch of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from spinevl.data.packing.collate import Collator
from spinevl.data.packing.dialogue_collate import DialogueCollator
from spinevl.data.sampling import RatioSampler
from spinevl.schema.batch import Batch
from spinevl.schema.dialogue import Dialogue
from spinevl.schema.record import Record


def by_patient(records: Sequence[Record]) -> list[list[tuple[int, Record]]]:
    """Records grouped by patient in order of first appearance, each with its index."""
    groups: dict[str, list[tuple[int, Record]]] = {}
    for index, record in enumerate(records):
        groups.setdefault(record.id, []).append((index, record))
    return list(groups.values())


class EpochSampler(Sampler[int]):
    """A permutation that depends on the seed and the epoch alone, so that runs repeat exactly."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

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


class Steps:
    """The batches of a loader, told how many targets their whole optimizer step has.

    A step's loss is the mean over the target tokens of all its batches, not the mean of their
    means; so a batch must know its step's tokens before its gradient is taken.

    Args:
        loader: the batches.
        accumulate: batches a step; the last step of an epoch may have fewer.
    """

    def __init__(self, loader: DataLoader[Batch], accumulate: int) -> None:
        self.loader = loader
        self.accumulate = accumulate
        self.sampler = loader.sampler  # the trainer tells it the epoch
        self.batch_sampler = loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        step: list[Batch] = []
        for batch in self.loader:
            step.append(batch)
            if len(step) == self.accumulate:
                yield from self._normalised(step)
                step = []
        yield from self._normalised(step)

    def _normalised(self, step: Sequence[Batch]) -> Iterator[Batch]:
        # the trainer divides each loss by ``accumulate``, in the last step of an epoch too
        tokens = sum(batch.loss_tokens for batch in step) / self.accumulate
        targets = sum(batch.loss_targets for batch in step) / self.accumulate
        for batch in step:
            yield replace(batch, loss_tokens=tokens, loss_targets=max(targets, 1.0))


class BatchDataModule(pl.LightningDataModule):
    """What loads batches, whatever they are of.

    Args:
        num_workers: loader processes; 0 is fastest for images that fit in memory.
        accumulate: batches an optimizer step.

    Attributes:
        train_batches: training batches an epoch.
    """

    train_batches: int

    def __init__(self, *, num_workers: int, accumulate: int) -> None:
        super().__init__()
        self.num_workers = num_workers
        self.accumulate = accumulate

    def _steps(self, *args: Any, **kwargs: Any) -> Steps:
        return Steps(self._loader(*args, **kwargs), self.accumulate)

    def _loader(
        self, groups: Sequence[Any], collate: Callable[..., Batch], **kwargs: Any
    ) -> DataLoader[Batch]:
        return DataLoader(
            groups,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Lightning's hook: a Batch moves itself."""
        return batch.to(device, non_blocking=True)


class PatientDataModule(BatchDataModule):
    """Training and dev batches of whole patients; without packing, training batches of questions.

    Args:
        train, dev: the records of each split.
        learn: collates training patients, with weights.
        choose: collates dev patients, every option laid out.
        batch_patients: patients a training batch.
        eval_patients: patients a dev batch.
        seed: of the order of patients.
        num_workers, accumulate: see BatchDataModule.
    """

    def __init__(
        self,
        train: Sequence[Record],
        dev: Sequence[Record],
        *,
        learn: Collator,
        choose: Collator,
        batch_patients: int,
        eval_patients: int,
        seed: int,
        num_workers: int = 0,
        accumulate: int = 1,
    ) -> None:
        super().__init__(num_workers=num_workers, accumulate=accumulate)
        self.train_groups = by_patient(train)
        self.dev_groups = by_patient(dev)
        self.learn = learn
        self.choose = choose
        self.batch_patients = batch_patients
        self.eval_patients = eval_patients
        self.seed = seed
        self.train_batches = -(-len(self.train_groups) // batch_patients)

    def train_dataloader(self) -> Steps:
        """Shuffled patients; the last, smaller batch is kept.

        Without packing, single questions of like length instead, as many a batch.
        """
        if self.learn.packing == "off":
            questions = [[pair] for group in self.train_groups for pair in group]
            lengths = [self.learn.length(record) for ((_, record),) in questions]
            batches = LengthBatches(lengths, n_batches=self.train_batches, seed=self.seed)
            return self._steps(questions, self.learn, batch_sampler=batches)
        sampler = EpochSampler(len(self.train_groups), seed=self.seed)
        return self._steps(
            self.train_groups, self.learn, batch_size=self.batch_patients, sampler=sampler
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Dev patients in order."""
        return self._loader(self.dev_groups, self.choose, batch_size=self.eval_patients)


class DialogueDataModule(BatchDataModule):
    """Training and dev batches of conversations.

    Args:
        train, dev: the conversations of each side; dev may be empty.
        collate: collates them.
        sampler: the order of the training conversations.
        batch_size: conversations a batch.
        num_workers, accumulate: see BatchDataModule.
    """

    def __init__(
        self,
        train: Sequence[Dialogue],
        dev: Sequence[Dialogue],
        *,
        collate: DialogueCollator,
        sampler: RatioSampler,
        batch_size: int,
        num_workers: int = 0,
        accumulate: int = 1,
    ) -> None:
        super().__init__(num_workers=num_workers, accumulate=accumulate)
        self.train_items = [[pair] for pair in enumerate(train)]
        self.dev_items = [[pair] for pair in enumerate(dev)]
        self.collate = collate
        self.sampler = sampler
        self.batch_size = batch_size
        self.train_batches = -(-len(sampler) // batch_size)

    def train_dataloader(self) -> Steps:
        """The sampler's order; the last, smaller batch is kept."""
        return self._steps(
            self.train_items, self.collate, batch_size=self.batch_size, sampler=self.sampler
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Dev conversations in order."""
        return self._loader(self.dev_items, self.collate, batch_size=self.batch_size)
