"""The packed path against the plain one, in value and in gradient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spinevl.config.options import LossMean, Packing, Scoring
from spinevl.config.tasks import official_tasks
from spinevl.data.examples import grouped, patient_examples
from spinevl.data.images import ImageStore
from spinevl.data.imbalance import weighted
from spinevl.data.packing.collate import Collator
from spinevl.io.image_file import load_image
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM, TinyLLM
from spinevl.models.vlm import VLM, sequence_logprobs
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import StudyLayout
from spinevl.training.module import next_token_loss

TASKS = {name: task for name, task in official_tasks().items() if task.closed}
TEMPLATES = {
    "qd": "[image]Curve? [options]",
    "sl": "[image]Line? [options]",
    "zjppt": "[image]<image>\nDisc [label]? [options]",
    "zyzg": "[image]<image>\nCanal [label]? [options]",
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    labels = {"qd": 1, "sl": 0, "zjppt": (0, 1, 2, 3, 2), "zyzg": (0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2)}
    levels = list(dict.fromkeys(level for task in TASKS.values() for level in task.levels))
    people = [
        Patient(
            name,
            labels,
            images=StudyLayout().images(str(root), name, slices=(6,), levels=levels),
        )
        for name in ("a", "b")
    ]
    made = [
        example
        for task in TASKS.values()
        for example in patient_examples(
            people,
            task=task,
            template=TEMPLATES[task.name],
            sag_image=[6],
            separate=False,
            with_answers=True,
        )
    ]
    for path in dict.fromkeys(image.path for example in made for image in example.images):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    return made


def tiny_model(llm: CausalLM | None = None) -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 16), tokens_per_side=2, dim=16)
    llm = llm or TinyLLM(width=32, layers=2, heads=4)
    connector = MLPConnector(in_dim=16, out_dim=llm.dim, in_tokens=4, in_grid=(2, 2))
    return VLM(encoder, connector, llm).eval()


def decode(image: ImageRef) -> np.ndarray:
    return load_image(image.path)


def collator(model: VLM, *, packing: Packing, learn: bool = False) -> Collator:
    store = ImageStore(decode)
    return Collator(model.inputs(), store, packing=packing, learn=learn, scoring=Scoring.full)


@pytest.mark.parametrize("packing", ["tree", "plain", "off"])
def test_option_logprobs_are_those_of_transformers_own_forward(
    examples: list[Example], packing: Packing
) -> None:
    model = tiny_model()
    collate = collator(model, packing=packing)
    groups = grouped(examples)
    batch = collate(groups)
    with torch.inference_mode():
        ours = sequence_logprobs(model(batch), batch)
        model.llm.model.set_attn_implementation("sdpa")
        plain = torch.stack([one for group in groups for one in _plain(model, collate, group)])
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


def _plain(
    model: VLM, collate: Collator, group: list[tuple[int, Example]]
) -> Iterator[torch.Tensor]:
    """Each option of each question read alone: no packing, no mask, no code of the fast path."""
    for _, example in group:
        images = torch.stack([model.encoder.transform(decode(image)) for image in example.images])
        visual = model.visual_tokens(images)
        ((question, _),) = example.rounds
        for choice in TASKS[example.key.task].choices:
            exchange = collate.conversation.exchange(question, choice)
            parts = [
                visual[-1 - symbol] if symbol < 0 else model.llm.embed(torch.tensor([symbol]))
                for symbol in exchange.symbols
            ]
            embeddings = torch.cat(parts)[None]
            logits = model.llm.model(inputs_embeds=embeddings).logits[0]
            answer = list(exchange.symbols[exchange.answer_start :])
            scored = logits[-1 - len(answer) : -1].log_softmax(-1)
            yield scored[range(len(answer)), answer].sum()


def test_shared_prefixes_stand_once_and_packing_leaves_no_padding(examples: list[Example]) -> None:
    model = tiny_model()
    groups = grouped(examples)
    batches = {name: collator(model, packing=name)(groups) for name in ("tree", "plain", "off")}
    assert batches["tree"].tokens < 0.5 * batches["plain"].tokens
    assert batches["plain"].tokens == batches["off"].tokens == batches["tree"].sequence_tokens
    for name in ("tree", "plain"):
        assert batches[name].input_ids.numel() == batches[name].tokens
    assert batches["off"].input_ids.numel() > batches["off"].tokens


@pytest.mark.parametrize("loss", list(LossMean))
def test_gradients_do_not_depend_on_packing(examples: list[Example], loss: LossMean) -> None:
    groups = grouped(weighted(examples, TASKS))
    gradients = []
    for packing in ("tree", "plain", "off"):
        model = tiny_model()
        collate = collator(model, packing=packing, learn=True)
        collate.loss = loss
        batch = collate(groups)
        next_token_loss(model(batch), batch).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for other in gradients[:2]:
        for ours, plain in zip(other, gradients[2], strict=True):
            torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_images_of_a_question_reach_it_in_order(examples: list[Example]) -> None:
    """Swapping the two images of a canal question changes its answer's probability."""
    from dataclasses import replace

    model = tiny_model()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # far from the small weights of a fresh model
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    one = next(example for example in examples if example.key.task == "zyzg")
    other = replace(one, images=one.images[::-1])
    with torch.inference_mode():
        values = []
        for example in (one, other):
            batch = collator(model, packing="tree")([[(0, example)]])
            values.append(sequence_logprobs(model(batch), batch))
    assert (values[0] - values[1]).abs().max() > 1e-3  # rounding is a hundred times less


def test_the_decoder_compiles_without_a_break(examples: list[Example]) -> None:
    model = tiny_model()
    batch = collator(model, packing="tree")(grouped(examples))
    with torch.inference_mode():
        plain = model(batch)
    model.llm.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(batch), plain, atol=1e-5, rtol=0)
