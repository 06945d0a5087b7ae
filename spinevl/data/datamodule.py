"""Patients in seeded order, a batch of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from spinevl.data.collate import Collator, Group
from spinevl.schema.batch import Batch
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


class PatientDataModule(pl.LightningDataModule):
    """Training and dev batches; every batch holds whole patients.

    Args:
        train, dev: the records of each split.
        learn: collates training patients, with weights.
        choose: collates dev patients, every option laid out.
        batch_patients: patients a training batch.
        eval_patients: patients a dev batch.
        seed: of the order of patients.
        num_workers: loader processes; 0 is fastest for images that fit in memory.
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
    ) -> None:
        super().__init__()
        self.train_groups = by_patient(train)
        self.dev_groups = by_patient(dev)
        self.learn = learn
        self.choose = choose
        self.batch_patients = batch_patients
        self.eval_patients = eval_patients
        self.seed = seed
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled patients; the last, smaller batch is kept."""
        sampler = EpochSampler(len(self.train_groups), seed=self.seed)
        return self._loader(
            self.train_groups, self.learn, batch_size=self.batch_patients, sampler=sampler
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Dev patients in order."""
        return self._loader(self.dev_groups, self.choose, batch_size=self.eval_patients)

    def _loader(
        self, groups: Sequence[Group], collate: Collator, **kwargs: Any
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
