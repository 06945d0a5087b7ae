"""The batches of each rank, what a step's loss is divided by, and where a pass goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spinevl.data.datamodule import ExampleDataModule, Steps
from spinevl.data.sampling import LengthBatches
from spinevl.schema.example import AnswerKind, Example, Key


def test_batches_of_like_length_hold_everything_once_and_repeat() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.choice([40, 95, 100, 180], size=103).tolist()
    batches = list(LengthBatches(lengths, n_batches=11, seed=3))
    assert sorted(one for batch in batches for one in batch) == list(range(103))
    assert len(batches) == 11
    assert batches == list(LengthBatches(lengths, n_batches=11, seed=3))
    padding = sum(max(lengths[k] for k in b) - lengths[one] for b in batches for one in b)
    assert padding / sum(lengths) < 0.1
    later = LengthBatches(lengths, n_batches=11, seed=3)
    later.sampler.set_epoch(1)
    assert list(later) != batches


@dataclass(frozen=True)
class Laid:
    """What of a Batch counts here."""

    questions: tuple[int, ...]
    answer_divisor: float
    auxiliary_divisor: float
    number: int = -1

    def blank(self) -> Laid:
        return replace(self, questions=(), answer_divisor=0.0, auxiliary_divisor=0.0)

    def shared(self) -> Laid:
        return self

    def to(self, *_: Any, **__: Any) -> Laid:
        return self


class Layer:
    """Stands for a Collator: a question k has k + 1 tokens to learn, half of them auxiliary."""

    def __init__(self, packing: str) -> None:
        self.packing = packing

    def numbering(self, images: Iterable[Any]) -> Layer:
        return self

    def to_score(self) -> Layer:
        return self

    def length(self, example: Example) -> int:
        return len(example.key.patient) % 3

    def __call__(self, groups: Sequence[Sequence[tuple[int, Example]]]) -> Laid:
        questions = tuple(index for group in groups for index, _ in group)
        tokens = float(sum(index + 1 for index in questions))
        return Laid(questions, tokens, tokens // 2)


def examples(patients: int, *, kind: AnswerKind) -> list[Example]:
    """Patients with one to three questions each, a task each; as texts they are conversations."""
    return [
        Example(Key(f"p{k}" * (1 + k % 4), f"task{task}"), (), (("?", "!"),), kind=kind)
        for task in range(3)
        for k in range(patients)
        if k % 3 >= task
    ]


def module(
    patients: int, batch: int, *, packing: str = "tree", ratios: Any = None, **options: Any
) -> ExampleDataModule:
    made = examples(patients, kind="text" if ratios else "option")
    collate: Any = Layer(packing)
    return ExampleDataModule(
        made, made, collate=collate, ratios=ratios, batch_size=batch, seed=5, **options
    )


def epoch(data: ExampleDataModule, number: int = 2) -> list[Laid]:
    steps = data.train_dataloader()
    steps.batch_sampler.sampler.set_epoch(number)
    return list(steps)  # type: ignore[arg-type]


KINDS = [("tree", None), ("off", None), ("tree", {"task0": 0.7, "task1": 2.0})]


@settings(max_examples=60, deadline=None)
@given(
    patients=st.integers(3, 40),
    world=st.integers(1, 5),
    batch=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    kind=st.sampled_from(KINDS),
    data=st.data(),
)
def test_ranks_see_together_what_one_process_sees_step_by_step(
    patients: int, world: int, batch: int, accumulate: int, kind: Any, data: st.DataObject
) -> None:
    packing, ratios = kind
    options = {"packing": packing, "ratios": ratios, "accumulate": accumulate}
    limit = data.draw(st.one_of(st.none(), st.integers(1, 4)))
    alone = module(patients, world * batch, rank=0, world=1, **options)
    ranks = [module(patients, batch, rank=r, world=world, **options) for r in range(world)]
    for one in (alone, *ranks):
        one.limit = limit
    whole, shares = epoch(alone), [epoch(one) for one in ranks]
    assert {len(share) for share in shares} == {len(whole)}
    assert {one.train_batches for one in ranks} == {alone.train_batches}
    for number, (together, *parts) in enumerate(zip(whole, *shares, strict=True)):
        seen = [question for part in parts for question in part.questions]
        assert sorted(seen) == sorted(together.questions)
        assert {part.number for part in parts} == {together.number} == {2 * len(whole) + number}
        for divisor in ("answer_divisor", "auxiliary_divisor"):
            mean = sum(getattr(part, divisor) for part in parts) / world
            assert mean * world == pytest.approx(getattr(together, divisor), abs=world)
        assert sum(part.answer_divisor for part in parts) == pytest.approx(together.answer_divisor)
        groups = len(together.questions) if packing == "off" or ratios else None
        if groups is not None:  # only a batch with fewer groups than ranks has blank shares
            assert sum(not part.questions for part in parts) == max(0, world - groups)
    # a pass goes on anywhere, in the middle of a step too
    start = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    rank = data.draw(st.integers(0, world - 1))
    resumed = ranks[rank].train_dataloader()
    resumed.load_state_dict({"position": start})
    resumed.batch_sampler.sampler.set_epoch(2)
    assert list(resumed) == shares[rank][start:]
    assert list(resumed) == shares[rank]  # the next pass is whole again


@settings(max_examples=40, deadline=None)
@given(patients=st.integers(1, 40), world=st.integers(1, 5), batch=st.integers(1, 3))
def test_dev_batches_are_those_of_one_process(patients: int, world: int, batch: int) -> None:
    whole = list(module(patients, batch, rank=0, world=1).val_dataloader())
    shares = [
        list(module(patients, batch, rank=r, world=world).val_dataloader()) for r in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    in_order = [one for together in zip(*shares, strict=True) for one in together]
    assert [one for one in in_order if one.questions] == whole
    assert all(one.answer_divisor == 0 for one in in_order[len(whole) :])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_says_where_the_epoch_stands(workers: int) -> None:
    def made() -> Steps:
        return module(23, 2, rank=1, world=2, accumulate=2, num_workers=workers).train_dataloader()

    steps = made()
    whole = list(steps)
    assert len(whole) == len(steps) == 6
    assert steps.state_dict() == {"position": 0}
    batches = iter(steps)
    assert [next(batches), next(batches)] == whole[:2]
    state = steps.state_dict()
    assert state == {"position": 2}  # whatever the workers have read ahead
    other = made()
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert len(other) == 6  # the trainer adds what was done before
    assert list(other) == whole[2:]


class Reader(pl.LightningModule):
    """Takes down its batches, and saves after an optimizer step."""

    def __init__(self, save: int | None, path: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.save, self.path = save, path
        self.read: list[Laid] = []

    def training_step(self, batch: Laid, batch_idx: int) -> torch.Tensor:
        self.read.append(batch)
        return self.weight.sum()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step == self.save and len(self.read) == 2 * self.save:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(reader: Reader, *, ckpt_path: Path | None = None) -> list[Laid]:
    data = module(23, 2, rank=0, world=2, accumulate=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
    )
    trainer.fit(reader, datamodule=data, ckpt_path=ckpt_path)
    return reader.read


@pytest.mark.parametrize("save", [1, 3, 5, 6, 8])
def test_lightning_goes_on_behind_the_last_step(tmp_path: Path, save: int) -> None:
    path = tmp_path / "state.ckpt"
    whole = fitted(Reader(save, path))
    assert len(whole) == 18  # three steps of two batches in each of three epochs
    assert fitted(Reader(None, path), ckpt_path=path) == whole[2 * save :]


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_steps_losses_sum_to_the_mean_over_its_tokens(accumulate: int) -> None:
    data = module(13, 3, accumulate=accumulate)
    batches = epoch(data)
    tokens = [sum(index + 1 for index in batch.questions) for batch in batches]
    assert len(batches) == 5
    for start in range(0, len(tokens), accumulate):
        step = slice(start, start + accumulate)
        # a batch's loss is its sum / answer_divisor, which the trainer divides by accumulate
        total = sum(
            n / batch.answer_divisor / accumulate
            for n, batch in zip(tokens[step], batches[step], strict=True)
        )
        assert total == pytest.approx(1.0)
        targets = sum(n // 2 for n in tokens[step])
        assert batches[start].auxiliary_divisor * accumulate == pytest.approx(targets)


def test_a_step_counts_only_the_batches_that_are_trained() -> None:
    data = module(13, 3, accumulate=4)
    data.limit = 1
    (only,) = epoch(data)
    assert only.answer_divisor * 4 == sum(index + 1 for index in only.questions)
