"""The batches of a training that need the most memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.examples import grouped
from spinevl.data.packing.collate import Group
from spinevl.schema.example import Example

CHARACTERS_A_TOKEN = 3.5
"""Of a text, roughly: it only decides which groups are the longest."""


def heaviest_batch(data: ExampleDataModule) -> list[Group]:
    """The groups of the longest sequences, as many as a training batch has."""
    if data.collate.packing == "off" and data.ratios is None:  # batches of questions
        groups: list[Group] = [[pair] for group in grouped(data.train) for pair in group]
        count = -(-len(groups) // data.train_batches)
    else:
        groups, count = [*grouped(data.train)], data.batch_size
    return _heaviest(groups, count, data)


def heaviest_dev_batch(data: ExampleDataModule) -> list[Group]:
    """The same for a batch in which dev is scored; empty without dev."""
    return _heaviest(grouped(data.dev), data.dev_batch_size, data)


def _heaviest(groups: Sequence[Group], count: int, data: ExampleDataModule) -> list[Group]:
    tokens: Mapping[str, int] = {kind: one.tokens for kind, one in data.collate.inputs.items()}

    def size(group: Group) -> float:
        return sum(_size(example, tokens) for _, example in group)

    return sorted(groups, key=size, reverse=True)[:count]


def _size(example: Example, tokens: Mapping[str, int]) -> float:
    text = sum(len(part or "") for turn in example.rounds for part in turn)
    return text / CHARACTERS_A_TOKEN + sum(tokens.get(one.modality, 0) for one in example.images)
