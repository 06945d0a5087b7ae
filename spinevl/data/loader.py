"""Loader processes: they end with their parent, and need no more shared memory than there is."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from spinevl.build.user_modules import WithUserModules
from spinevl.io.children import end_with_parent
from spinevl.schema.batch import Batch
from spinevl.schema.errors import UserError

log = logging.getLogger(__name__)


def make_loader(
    groups: Sequence[Any], collate: Callable[..., Batch], *, num_workers: int, **options: Any
) -> BatchLoader:
    """A loader of batches, see torch's DataLoader; a batch of no group is a blank one."""
    collate = OrBlank(collate, groups[0] if groups else None)
    workers: dict[str, Any] = {}
    if num_workers > 0:
        workers = {"worker_init_fn": partial(_start, os.getpid()), "persistent_workers": True}
    return BatchLoader(
        groups,  # type: ignore[arg-type]
        collate_fn=WithUserModules(_Sent(collate) if num_workers > 0 else collate),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        # nothing is drawn in the loader; the random state of the training stays as it is
        generator=torch.Generator(),
        **workers,
        **options,
    )


class BatchLoader(DataLoader[Batch]):
    """A DataLoader whose processes send a batch through a pipe where shared memory is full.

    Raises:
        UserError: its processes cannot be started.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            batches = super().__iter__()
        except OSError as error:
            raise UserError(
                f"trainer.num_workers={self.num_workers}: the processes cannot be started "
                f"({error.strerror or error}); enlarge /dev/shm (docker run --shm-size=1g) or set "
                "trainer.num_workers=0"
            ) from error
        told = False
        for batch in batches:
            if not isinstance(batch, _Piped):
                yield batch
                continue
            if not told:
                told = True
                log.warning(
                    "shared memory is full (/dev/shm): batches are sent through a pipe, which is "
                    "slower; enlarge it (docker run --shm-size=1g) or set trainer.num_workers=0"
                )
            found = pickle.loads(batch.pickled)
            yield found.pin_memory() if self.pin_memory else found


@dataclass(frozen=True)
class OrBlank:
    """Collate groups; where a rank has none, a blank batch of the shape of a real one.

    Attributes:
        collate: lays out groups.
        stand_in: the group that a blank batch is made of.
    """

    collate: Callable[..., Batch]
    stand_in: Any

    def __call__(self, groups: Sequence[Any]) -> Batch:
        return self.collate(groups) if groups else self.collate([self.stand_in]).blank()


@dataclass(frozen=True)
class _Piped:
    """A batch whose tensors are bytes."""

    pickled: bytes


@dataclass(frozen=True)
class _Sent:
    """Collate in a loader process, and put the tensors into shared memory there.

    torch would do so in a thread whose errors only reach the terminal: the job would wait for ever.
    """

    collate: Callable[..., Batch]

    def __call__(self, group: Any) -> Batch | _Piped:
        batch = self.collate(group)
        try:
            return batch.shared()
        except (RuntimeError, OSError):  # no room, or too many open files
            return _Piped(pickle.dumps(batch))


def _start(parent: int, number: int) -> None:
    end_with_parent(parent)
