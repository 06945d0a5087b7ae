"""Loss weights: tasks as in the score, rare labels more than frequent ones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from spinevl.config.options import LossMean, Packing
from spinevl.config.tasks import official_tasks
from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.examples import patient_examples
from spinevl.data.images import ImageStore
from spinevl.data.imbalance import weighted
from spinevl.data.packing.collate import Collator
from spinevl.models.llm import TinyLLM
from spinevl.schema.box import Box
from spinevl.schema.example import Example, Key
from spinevl.schema.model_inputs import ModelInputs, VisionInputs
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout

TASKS = {name: task for name, task in official_tasks().items() if task.closed}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    levels = TASKS["zyzg"].levels
    people = [
        Patient(
            f"p{k}",
            {
                "qd": int(k == 0),
                "sl": k % 2,
                "zjppt": (0, 1, 2, 3, k % 4),
                "zyzg": (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2),
            },
            images=StudyLayout().images("/r", f"p{k}", slices=(6,), levels=levels),
        )
        for k in range(5)
    ]
    return [
        example
        for task in TASKS.values()
        for example in patient_examples(
            people,
            task=task,
            template="[image]?",
            sag_image=[6],
            separate=False,
            with_answers=True,
        )
    ]


@pytest.mark.parametrize("scheme", ["inverse_sqrt", "none"])
def test_loss_weights_follow_the_score(examples: list[Example], scheme: str) -> None:
    total = dict.fromkeys(TASKS, 0.0)
    found = weighted(examples, TASKS, class_weights=scheme)  # type: ignore[arg-type]
    assert [one.key for one in found] == [one.key for one in examples]
    for example in found:
        total[example.key.task] += example.weight
    for name, task in TASKS.items():
        assert total[name] / len(examples) == pytest.approx(task.weight)


@pytest.mark.parametrize("loss", list(LossMean))
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("packing", list(Packing))
def test_a_tasks_share_of_the_loss_does_not_grow_with_the_length_of_its_answers(
    examples: list[Example], loss: LossMean, accumulate: int, packing: Packing
) -> None:
    tasks = official_tasks()
    boxes = [
        replace(
            one,
            key=Key(one.key.patient, "positioning", level),
            kind="box",
            label=None,
            rounds=((f"<image>{level}?", Box(100, 120, 130, 145).answer(level)),),
        )
        for one in examples
        if one.key.task == "qd"
        for level in tasks["positioning"].levels
    ]
    found = weighted([*examples, *boxes], tasks)
    llm = TinyLLM(width=8, layers=1, heads=1)
    vision = VisionInputs(1, lambda image: torch.from_numpy(image)[None].float())
    inputs = ModelInputs(llm.tokenizer, "chat", None, 512, {"image": vision})
    store = ImageStore(lambda image: np.zeros((4, 4), np.uint8))
    data = ExampleDataModule(
        found,
        [],
        collate=Collator(inputs, store, packing=packing, loss=loss, learn=True),
        ratios=None,
        batch_size=1,
        seed=3,
        accumulate=accumulate,
    )
    shares: dict[str, float] = defaultdict(float)
    for batch in data.train_dataloader():
        for weight, number in zip(
            batch.target_weight.tolist(), batch.target_sequence.tolist(), strict=True
        ):
            shares[found[batch.questions[number]].key.task] += weight
        if accumulate == 1:
            counted = batch.questions if loss == LossMean.answer else batch.target_id
            assert batch.answer_divisor == len(counted)
    total = sum(shares.values())
    promised = {name: task.training_weight / 1.2 for name, task in tasks.items()}
    if loss == LossMean.answer:
        assert {name: one / total for name, one in shares.items()} == pytest.approx(promised)
        assert total == pytest.approx(len(found), rel=1e-5)
    else:  # MedM-VL's, of tokens
        assert shares["positioning"] / total > 2 * promised["positioning"]


def test_a_rare_label_weighs_by_the_inverse_root_of_its_frequency(examples: list[Example]) -> None:
    weights: dict[tuple[str, int | None], set[float]] = defaultdict(set)
    for one in weighted(examples, TASKS):
        weights[one.key.task, one.label].add(one.weight)
    assert all(len(found) == 1 for found in weights.values())
    (rare,), (common,) = weights["qd", 1], weights["qd", 0]
    assert rare / common == pytest.approx(2.0)  # one patient against four
    plain = {
        one.weight
        for one in weighted(examples, TASKS, class_weights="none")
        if one.key.task == "qd"
    }
    assert len(plain) == 1


def test_an_unknown_scheme_is_refused(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="class_weights=sqrt: expected inverse_sqrt or none"):
        weighted(examples, TASKS, class_weights="sqrt")  # type: ignore[arg-type]
