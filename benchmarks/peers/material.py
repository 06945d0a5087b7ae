"""What everybody is asked: weights as our checkpoint and as a LLaVA, and prompts as tokens.

The choices of random weights would be ties, so the model learns the questions of some phantoms
first; what is generated comes from random weights, which never end an answer early, so that
everybody computes as many tokens. All of it is made once, and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import subject
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.hf import LlavaFormat
from spinevl.checkpoints.native import save_checkpoint
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.conversation import Conversation
from spinevl.features.store import FeatureCache
from spinevl.inference.encode import keep_features
from spinevl.io.folders import whole_folder
from spinevl.io.image_file import load_image
from spinevl.models.tuning import tuning_options
from spinevl.models.vlm import VLM
from spinevl.schema.example import Example, Key

VERSION = 1
ASKED = 4
"""Patients whose questions are asked; the others are learned from."""

LEARNED = 20
RATE = 6e-4
STEPS = 60
FROZEN = {"encoder": "frozen", "connector": "frozen", "llm": "frozen"}
LORA: dict[str, Any] = {
    **FROZEN,
    "llm": "lora",
    "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "targets": None},
}
"""What is trained against TRL: adapters on all linear layers of the decoder, nothing else."""

CONVERSATIONS = (
    "<image>\nDescribe this slice.",
    "<image>\nWhat would you tell the patient about this image, in plain words?",
    "<image>\nList the findings of this slice, then give an impression.",
)


def closed(cache: Path, patients: int = ASKED) -> list[Example]:
    """The 18 closed questions of each patient."""
    return _everybody(cache)[: patients * 18]


def boxes(cache: Path) -> list[Example]:
    """Positioning: 6 vertebrae on 3 slices of a patient."""
    from spinevl.config.tasks import official_tasks

    asked = {"positioning": official_tasks()["positioning"]}
    return [
        _waiting(one)
        for one in subject.patients(cache, count=1, sag_image=(5, 6, 7), asked=asked, separate=True)
    ]


def conversations(cache: Path, count: int) -> list[Example]:
    """Conversations about an image each, as free text."""
    shown = dict.fromkeys(image for one in _everybody(cache) for image in one.images)
    return [
        Example(
            key=Key(f"conversation-{number}", ""),
            images=(image,),
            rounds=((CONVERSATIONS[number % len(CONVERSATIONS)], None),),
        )
        for number, image in zip(range(count), shown, strict=False)
    ]


def _everybody(cache: Path) -> list[Example]:
    return subject.patients(cache, count=ASKED + LEARNED)


def _waiting(example: Example) -> Example:
    (question, _), *_ = example.rounds
    return replace(example, rounds=((question, None),))


def make(cache: Path, **sizes: int) -> Path:
    """A folder with ``trained`` and ``random``, each with ``checkpoint``, ``hf`` and the prompts.

    Args:
        cache: its parent is made here, once for all that is asked.
        sizes: see subject.parts.
    """
    told = (f"{key}{value}" for key, value in sorted(sizes.items()))
    asked = _asked(cache, ASKED)
    home = cache / "bench-peers" / "-".join([*told, f"v{VERSION}", _digest(asked)])
    if home.is_dir():
        return home
    print(f"making the weights and prompts in {home}", flush=True)
    with whole_folder(home) as beside:
        for kind in ("random", "trained"):
            folder = beside / kind
            nodes = _nodes(folder / "base", sizes)
            model = subject.model(nodes)
            if kind == "trained":
                _learn(model, _everybody(cache)[ASKED * 18 :], folder)
            _write(folder, model, nodes, asked)
    return home


def make_random(
    folder: Path, cache: Path, *, dtype: str, patients: int = ASKED, **sizes: int
) -> None:
    """The same in ``folder`` for random weights of other sizes, held in ``dtype``."""
    nodes = _nodes(folder / "base", sizes, dtype)
    _write(folder, subject.model(nodes), nodes, _asked(cache, patients))


def _nodes(folder: Path, sizes: dict[str, int], dtype: str = "auto") -> dict[str, Any]:
    folder.mkdir(parents=True)
    nodes = subject.parts(folder, **sizes)
    for part in ("encoder", "llm"):
        nodes[part]["dtype"] = dtype
    full = {**LORA, "connector": "full", "llm": "full"}
    return {**nodes, "tuning": full}


def _learn(model: VLM, examples: list[Example], folder: Path) -> None:
    """A few steps on every weight but the encoder's: the answers' form, and how often each is."""
    model.train()
    model.encoder.eval()
    learned = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
    collate = Collator(model.inputs(), ImageStore(lambda one: load_image(one.path)), learn=True)
    shown = [image for one in examples for image in one.images]
    keep_features(model, FeatureCache(folder / "features", 10**11), collate.inputs, shown)
    groups = grouped(examples)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 8)
        optimizer.zero_grad()
        batch = collate([groups[step % len(groups)]])
        loss = -model(batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        print(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}", flush=True)
    model.eval()


def _write(
    folder: Path, model: VLM, nodes: dict[str, Any], asked: Mapping[str, Sequence[Example]]
) -> None:
    """The checkpoint, its export, and the prompts as the export's tokenizer writes them."""
    checkpoint = Checkpoint(model, {**nodes, "tuning": {**LORA, **FROZEN}})
    save_checkpoint(folder / "checkpoint", checkpoint)
    conversation = Conversation(model.llm.tokenizer, template=model.llm.conversation)
    (folder / "hf").mkdir()
    LlavaFormat().write(folder / "hf", checkpoint)
    image = int(model.llm.tokenizer.convert_tokens_to_ids("<image>"))
    for name, examples in asked.items():
        told = [_prompt(conversation, one, image) for one in examples]
        (folder / f"{name}.json").write_text(json.dumps(told))


def _asked(cache: Path, patients: int) -> dict[str, list[Example]]:
    return {
        "closed": closed(cache, patients),
        "boxes": boxes(cache),
        "conversations": conversations(cache, 100),
    }


def _digest(asked: Mapping[str, Sequence[Example]]) -> str:
    """Of the questions, their options and images: peers must be asked what ours is."""
    told = {
        name: [[one.rounds, one.options, [str(image.path) for image in one.images]] for one in some]
        for name, some in asked.items()
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _prompt(conversation: Conversation, example: Example, image: int) -> dict[str, Any]:
    """A question for a peer: tokens with ``image`` where an image stands, and the same as text."""
    (question, answer), *_ = example.rounds
    sequence = conversation.dialogue([(question, answer)])
    start = sequence.answer_start
    prompt = [image if symbol < 0 else symbol for symbol in sequence.symbols]
    tokenizer = conversation.tokenizer
    text = tokenizer.decode(prompt[:start])
    if tokenizer(text, add_special_tokens=False)["input_ids"] != prompt[:start]:
        raise AssertionError(f"{example.where}: another prompt once it is a text")
    return {
        "patient": example.key.patient,
        "where": example.where,
        "images": [one.path for one in example.images],
        "prompt_ids": prompt[:start],
        "prompt": text,
        "completion": tokenizer.decode(prompt[start:]),
        "options": list(example.options),
    }


def options_for_training() -> Any:
    """LORA as the options that ``tuned`` takes."""
    return tuning_options(LORA)
