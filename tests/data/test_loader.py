"""Loader processes where shared memory is full, or is not."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from spinevl.data.loader import make_loader
from spinevl.schema.batch import AttentionBlocks, Batch
from spinevl.schema.errors import UserError


def batch_of(group: list[int]) -> Batch:
    some = torch.tensor(group)
    values: dict[str, Any] = dict.fromkeys(Batch.__dataclass_fields__, some)
    plain = {"questions": tuple(group), "sequence_label": (), "tokens": 1, "sequence_tokens": 1}
    none = {"features": None, "volume_features": None}
    blocks = (AttentionBlocks(some, some + 1, some > 0),)
    return Batch(**{**values, **plain, **none, "attention": blocks})


class NoRoom(Batch):
    """A batch that no shared memory holds."""

    def shared(self) -> Batch:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def batch_without_room(group: list[int]) -> Batch:
    one = batch_of(group)
    return NoRoom(**{name: getattr(one, name) for name in Batch.__dataclass_fields__})


@pytest.mark.parametrize("collate", [batch_of, batch_without_room])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_the_same_by_every_way(
    collate: Any, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loader = make_loader(range(5), collate, num_workers=num_workers, batch_size=2)
        found = list(loader)
    assert [one.questions for one in found] == [(0, 1), (2, 3), (4,)]
    assert [one.input_ids.tolist() for one in found] == [[0, 1], [2, 3], [4]]
    assert found[1].attention[0].key.tolist() == [3, 4]
    piped = num_workers == 1 and collate is batch_without_room
    assert [record.getMessage().count("/dev/shm") for record in caplog.records] == [1] * piped
    assert replace(found[0], tokens=2).tokens == 2


def test_processes_that_cannot_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", refuse)
    with pytest.raises(UserError, match=r"trainer\.num_workers=2.*No space left"):
        list(make_loader(range(5), batch_of, num_workers=2, batch_size=2))
