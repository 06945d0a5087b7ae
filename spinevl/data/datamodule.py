"""Training and dev batches of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import BatchSampler, DataLoader

from spinevl.data.examples import grouped
from spinevl.data.loader import make_loader
from spinevl.data.packing.collate import Collator
from spinevl.data.sampling import LengthBatches, ShareOfBatches, train_sampler, whole_batches
from spinevl.distributed import ranks
from spinevl.schema.batch import Batch
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef, Modality
from spinevl.schema.model_inputs import ImageTensors


class Steps:
    """The batches of a loader, told how many targets their whole optimizer step has.

    A step's loss is the mean over the answers (or their tokens) of all its batches, not the mean of
    their means; so a batch must know its step's number before its gradient is taken. Each batch
    is told its number in the training as well, and a pass may start where another one stopped.

    Args:
        loader: the batches; its batch sampler is a ShareOfBatches.
        accumulate: batches a step; the last step of an epoch may have fewer.
        limit: batches of an epoch that are trained; None is all.

    Attributes:
        position: how many batches of this epoch were given out.
    """

    def __init__(
        self, loader: DataLoader[Batch], accumulate: int, *, limit: int | None = None
    ) -> None:
        self.loader = loader
        self.accumulate = accumulate
        self.limit = limit
        # the trainer tells its sampler the epoch
        self.batch_sampler: ShareOfBatches = loader.batch_sampler  # type: ignore[assignment]
        self.position = 0
        self._start = 0

    @property
    def _iterator(self) -> Any:
        """Where Lightning finds the loader's processes, which it ends with the training.

        The garbage collector would end them later, and wait five seconds for each.
        """
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value

    def __len__(self) -> int:
        return len(range(len(self.loader))[: self.limit])

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands; where it is over, the start of the next."""
        return {"position": self.position % max(len(self), 1)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Have the next pass begin behind the batches that were given out before."""
        self.position = self._start = state["position"]

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        # a step that is cut in the middle is read whole, for its number of targets
        self.position = self.batch_sampler.start = start - start % self.accumulate
        step: list[Batch] = []
        for batch in islice(self.loader, len(self) - self.position):
            step.append(batch)
            if len(step) == self.accumulate:
                yield from self._normalised(step, start)
                step = []
        yield from self._normalised(step, start)

    def _normalised(self, step: Sequence[Batch], start: int) -> Iterator[Batch]:
        # the trainer divides each loss by ``accumulate``, in the last step of an epoch too
        answers = sum(batch.answer_divisor for batch in step) / self.accumulate
        targets = sum(batch.auxiliary_divisor for batch in step) / self.accumulate
        for batch in step:
            number = self.batch_sampler.sampler.epoch * len(self) + self.position
            self.position += 1
            if self.position > start:
                yield replace(
                    batch, answer_divisor=answers, auxiliary_divisor=targets, number=number
                )


class ExampleDataModule(pl.LightningDataModule):
    """Batches of whole patients, or of conversations.

    Args:
        train, dev: the examples of each side; dev may be empty.
        collate: lays out training batches.
        ratios: task -> how often an epoch shows its conversations; None shows every group once.
        batch_size: patients, or conversations, a training batch of one rank.
        seed: of the order.
        num_workers: loader processes; 0 is fastest for images that fit in memory.
        accumulate: batches an optimizer step.
        rank, world: this process, and how many share each step; None as they are at work here.

    Attributes:
        train_batches: training batches an epoch, the same number for every rank.
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
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__()
        self.rank = ranks.rank() if rank is None else rank
        self.world = ranks.world_size() if world is None else world
        self.train = train
        self.dev = dev
        shown = (image for one in train for image in one.images)
        self.collate = collate.numbering(shown)
        self.seed = seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.accumulate = accumulate
        self.limit: int | None = None
        self.first_epoch = 0
        self.ratios = ratios
        self.sampler = train_sampler(train, ratios=ratios, seed=seed)
        self.train_batches = -(-len(self.sampler) // (self.world * batch_size))

    @property
    def dev_batch_size(self) -> int:
        """Groups of a dev batch; options take no gradients, so four times as many at once."""
        return self.batch_size if self.ratios is not None else 4 * self.batch_size

    def train_dataloader(self) -> Steps:
        """Shuffled groups; the last, smaller batch is kept.

        Without packing, patients' questions one by one instead, batches of like length.
        """
        batches: BatchSampler | LengthBatches
        if self.collate.packing == "off" and self.ratios is None:
            groups = [[pair] for group in grouped(self.train) for pair in group]
            lengths = [self.collate.length(example) for ((_, example),) in groups]
            batches = LengthBatches(lengths, n_batches=self.train_batches, seed=self.seed)
        else:
            groups = grouped(self.train)
            batches = BatchSampler(self.sampler, self.world * self.batch_size, drop_last=False)
        share = ShareOfBatches(batches, rank=self.rank, world=self.world)
        share.sampler.first_epoch = self.first_epoch
        return Steps(self._loader(groups, self.collate, share), self.accumulate, limit=self.limit)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Dev examples in order."""
        groups = grouped(self.dev)
        batches = whole_batches(len(groups), self.dev_batch_size, rank=self.rank, world=self.world)
        return self._loader(groups, self.collate.to_score(), batches)

    def shown(self) -> set[Modality]:
        """The kinds of images that the training examples show."""
        return {image.modality for one in self.train for image in one.images}

    def stand_ins(self) -> dict[Modality, ImageTensors]:
        """An image of each kind that the examples show, as a batch would hold it."""
        first: dict[Modality, ImageRef] = {}
        for example in (*self.train, *self.dev):
            for image in example.images:
                first.setdefault(image.modality, image)
        return {kind: self.collate.inputs[kind]([first[kind]]) for kind in sorted(first)}

    def _loader(
        self, groups: Sequence[Any], collate: Callable[..., Batch], batches: Any
    ) -> DataLoader[Batch]:
        return make_loader(groups, collate, num_workers=self.num_workers, batch_sampler=batches)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Lightning's hook: a Batch moves itself."""
        return batch.to(device, non_blocking=True)
