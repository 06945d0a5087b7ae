"""The packed path against the plain one, in value and in gradient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spinevl.data.weighting import LossWeights
from spinevl.inference.assemble import image_inputs_of
from spinevl.schema.record import Record

from spinevl.config.conf import official_tasks
from spinevl.data.datamodule import by_patient
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.conversation import Conversation
from spinevl.data.packing.layout import Packing
from spinevl.data.records import build_records
from spinevl.io.image_file import load_image
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM, TinyLLM
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.patient import Patient

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
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, llm).eval()


def collator(model: VLM, *, packing: Packing, learn: list[Record] | None = None) -> Collator:
    return Collator(
        tasks=TASKS,
        conversation=Conversation(model.llm.tokenizer, template="chat"),
        image_inputs=image_inputs_of(model.inputs(), {"image": ImageStore()}),
        max_length=512,
        packing=packing,
        weights=LossWeights(learn, TASKS) if learn else None,
    )


def test_a_model_tells_what_its_batches_are_laid_out_for() -> None:
    model = tiny_model()
    inputs = model.inputs()
    assert inputs.tokenizer is model.llm.tokenizer
    assert (inputs.conversation, inputs.end_token, inputs.max_length) == ("chat", None, 1024)
    (vision,) = inputs.vision.values()
    assert vision.tokens == 4
    image = np.full((64, 64), 7, np.uint8)
    assert torch.equal(vision.transform(image), model.encoder.transform(image))


@pytest.mark.parametrize("packing", ["tree", "plain", "off"])
def test_option_logprobs_are_those_of_transformers_own_forward(
    records: list[Record], packing: Packing
) -> None:
    model = tiny_model()
    collate = collator(model, packing=packing)
    groups = by_patient(records)
    batch = collate(groups)
    with torch.inference_mode():
        ours = sequence_logprobs(model(batch), batch)
        model.llm.model.set_attn_implementation("sdpa")
        plain = torch.stack([one for group in groups for one in _plain(model, collate, group)])
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


def _plain(
    model: VLM, collate: Collator, group: list[tuple[int, Record]]
) -> Iterator[torch.Tensor]:
    """Each option of each question read alone: no packing, no mask, no code of the fast path."""
    for _, record in group:
        images = torch.stack([model.encoder.transform(load_image(path)) for path in record.images])
        visual = model.visual_tokens(images)
        for choice in TASKS[record.task].choices:
            exchange = collate.conversation.exchange(record.prompt, choice)
            parts = [
                visual[-1 - symbol] if symbol < 0 else model.llm.embed(torch.tensor([symbol]))
                for symbol in exchange.symbols
            ]
            embeddings = torch.cat(parts)[None]
            logits = model.llm.model(inputs_embeds=embeddings).logits[0]
            answer = list(exchange.symbols[exchange.answer_start :])
            scored = logits[-1 - len(answer) : -1].log_softmax(-1)
            yield scored[range(len(answer)), answer].sum()


def test_shared_prefixes_stand_once_and_packing_leaves_no_padding(records: list[Record]) -> None:
    model = tiny_model()
    groups = by_patient(records)
    batches = {name: collator(model, packing=name)(groups) for name in ("tree", "plain", "off")}
    assert batches["tree"].tokens < 0.5 * batches["plain"].tokens
    assert batches["plain"].tokens == batches["off"].tokens == batches["tree"].sequence_tokens
    for name in ("tree", "plain"):
        assert batches[name].input_ids.numel() == batches[name].tokens
    assert batches["off"].input_ids.numel() > batches["off"].tokens


def test_gradients_do_not_depend_on_packing(records: list[Record]) -> None:
    groups = by_patient(records)
    gradients = []
    for packing in ("tree", "plain", "off"):
        model = tiny_model()
        batch = collator(model, packing=packing, learn=records)(groups)
        weights = batch.sequence_weight[batch.target_sequence]
        (-(model(batch) * weights).sum() / batch.loss_tokens).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for other in gradients[:2]:
        for ours, plain in zip(other, gradients[2], strict=True):
            torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_images_of_a_question_reach_it_in_order(records: list[Record]) -> None:
    """Swapping the two images of a canal question changes its answer's probability."""
    from dataclasses import replace

    model = tiny_model()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # far from the small weights of a fresh model
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    one = next(record for record in records if record.task == "zyzg")
    other = replace(one, images=one.images[::-1])
    with torch.inference_mode():
        values = []
        for record in (one, other):
            batch = collator(model, packing="tree")([[(0, record)]])
            values.append(sequence_logprobs(model(batch), batch))
    assert (values[0] - values[1]).abs().max() > 1e-3  # rounding is a hundred times less


def test_loss_weights_follow_the_score(records: list[Record]) -> None:
    weights = LossWeights(records, TASKS)
    total = dict.fromkeys(TASKS, 0.0)
    for record in records:
        total[record.task] += weights[record]
    for name, task in TASKS.items():
        assert total[name] / len(records) == pytest.approx(task.weight)


def test_the_decoder_compiles_without_a_break(records: list[Record]) -> None:
    model = tiny_model()
    batch = collator(model, packing="tree")(by_patient(records))
    with torch.inference_mode():
        plain = model(batch)
    model.llm.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model(batch), plain, atol=1e-5, rtol=0)
