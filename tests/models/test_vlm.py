"""The packed path against the plain one, in value and in gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spinevl.config import official_tasks
from spinevl.data.collate import Collator
from spinevl.data.conversation import Conversation
from spinevl.data.datamodule import by_patient
from spinevl.data.image_store import ImageStore
from spinevl.data.records import build_records
from spinevl.data.weighting import LossWeights
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM, TinyLLM
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.record import Patient, Record

TASKS = {name: task for name, task in official_tasks().items() if task.closed}
TEMPLATES = {
    "qd": "[image]Curve? [options]",
    "sl": "[image]Line? [options]",
    "zjppt": "[image]<image>\nDisc [label]? [options]",
    "zyzg": "[image]<image>\nCanal [label]? [options]",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    labels = {"qd": 1, "sl": 0, "zjppt": (0, 1, 2, 3, 2), "zyzg": (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2)}
    people = [Patient(name, labels) for name in ("a", "b")]
    made = [
        record
        for task in TASKS.values()
        for record in build_records(
            people,
            task=task,
            template=TEMPLATES[task.name],
            sag_image=[6],
            separate=False,
            images_root=root,
            answers="truth",
        )
    ]
    for path in {path for record in made for path in record.images}:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    return made


def tiny_model(llm: CausalLM | None = None) -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = llm or TinyLLM(width=32, layers=2, heads=4)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4)
    return VLM(encoder, connector, llm).eval()


def collator(model: VLM, *, share: bool, learn: list[Record] | None = None) -> Collator:
    return Collator(
        tasks=TASKS,
        conversation=Conversation(model.llm.tokenizer, template="chat"),
        tokens_per_image=model.tokens_per_image,
        transform=model.encoder.transform,
        images=ImageStore(),
        max_length=512,
        share_prefixes=share,
        weights=LossWeights(learn, TASKS) if learn else None,
    )


def test_option_logprobs_do_not_depend_on_packing(records: list[Record]) -> None:
    model = tiny_model()
    groups = by_patient(records)
    with torch.inference_mode():
        packed = collator(model, share=True)(groups)
        plain = collator(model, share=False)(groups)
        together = sequence_logprobs(model(packed), packed)
        apart = sequence_logprobs(model(plain), plain)
    assert packed.tokens < 0.5 * plain.tokens
    assert packed.sequence_label == plain.sequence_label
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_gradients_do_not_depend_on_packing(records: list[Record]) -> None:
    groups = by_patient(records)
    gradients = []
    for share in (True, False):
        model = tiny_model()
        batch = collator(model, share=share, learn=records)(groups)
        weights = batch.sequence_weight[batch.target_sequence]
        (-(model(batch) * weights).mean()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_images_of_a_question_reach_it_in_order(records: list[Record]) -> None:
    """Swapping the two images of a canal question changes its answer's probability."""
    from dataclasses import replace

    model = tiny_model()
    one = next(record for record in records if record.task == "zyzg")
    other = replace(one, images=one.images[::-1])
    with torch.inference_mode():
        values = []
        for record in (one, other):
            batch = collator(model, share=True)([[(0, record)]])
            values.append(sequence_logprobs(model(batch), batch))
    assert not torch.allclose(values[0], values[1])


def test_loss_weights_follow_the_score(records: list[Record]) -> None:
    weights = LossWeights(records, TASKS)
    total = dict.fromkeys(TASKS, 0.0)
    for record in records:
        total[record.task] += weights[record]
    for name, task in TASKS.items():
        assert total[name] / len(records) == pytest.approx(task.weight)
