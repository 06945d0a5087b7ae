"""What a plain implementation does, as a baseline: every use of an image encoded, nothing shared.

It follows the usual recipe: a question at a time or a padded batch of them, the prompt with its
images embedded anew for each, sixteen tokens generated for a closed question; in training a
right-padded batch with logits at every position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from spinevl.data.packing.conversation import Conversation
from spinevl.io.image_file import load_image
from spinevl.models.vlm import VLM
from spinevl.schema.example import Example

NEW_TOKENS = 16


def predict(model: VLM, examples: Sequence[Example], *, batch_size: int) -> int:
    """Generate an answer to every question; returns the number of answers."""
    conversation = Conversation(model.llm.tokenizer, template=model.llm.conversation)
    model.llm.model.set_attn_implementation("sdpa")
    device = _device(model)
    answers = 0
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            prompts = [conversation.prompt(one.rounds[0][0]).symbols for one in batch]
            rows = _embedded(model, batch, prompts)
            length = max(len(row) for row in rows)
            embeddings = torch.stack(
                [functional.pad(row, (0, 0, length - len(row), 0)) for row in rows]
            )
            mask = torch.stack([(torch.arange(length) >= length - len(row)).long() for row in rows])
            mask = mask.to(device)
            output = model.llm.model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask,
                do_sample=False,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )
            answers += len(output)
    return answers


def loss(model: VLM, examples: Sequence[Example]) -> tuple[torch.Tensor, int]:
    """The summed next-token loss of a right-padded batch, and its number of answer tokens."""
    conversation = Conversation(model.llm.tokenizer, template=model.llm.conversation)
    exchanges = [conversation.dialogue(one.rounds) for one in examples]
    rows = _embedded(model, examples, [exchange.symbols for exchange in exchanges])
    labels = []
    for row, exchange in zip(rows, exchanges, strict=True):
        answer = list(exchange.symbols[exchange.answer_start :])
        label = torch.full((len(row),), -100)
        label[len(row) - len(answer) :] = torch.tensor(answer)
        labels.append(label)
    length = max(len(row) for row in rows)
    embeddings = torch.stack([functional.pad(row, (0, 0, 0, length - len(row))) for row in rows])
    target = torch.stack(
        [functional.pad(label, (0, length - len(label)), value=-100) for label in labels]
    )
    mask = torch.stack([(torch.arange(length) < len(row)).long() for row in rows])
    mask, target = mask.to(_device(model)), target.to(_device(model))
    logits = model.llm.model(inputs_embeds=embeddings, attention_mask=mask).logits
    total = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), target[:, 1:].flatten(), reduction="sum"
    )
    return total, int((target != -100).sum())


def _device(model: VLM) -> torch.device:
    return next(model.parameters()).device


def _embedded(
    model: VLM, examples: Sequence[Example], prompts: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """[L, D] of each question; every use of an image is decoded and encoded."""
    uses = [image for example in examples for image in example.images]
    pixels = torch.stack([model.encoder.transform(load_image(image.path)) for image in uses])
    with torch.no_grad():
        features = model.encoder(pixels.to(_device(model)))
    visual = iter(model.connector(features))
    rows = []
    for prompt in prompts:
        ids = torch.tensor([max(symbol, 0) for symbol in prompt], device=_device(model))
        text = model.llm.embed(ids)
        parts, last = [], 0
        for place, symbol in enumerate(prompt):
            if symbol < 0:  # image k of a question is its k-th placeholder
                parts += [text[last:place], next(visual)]
                last = place + 1
        rows.append(torch.cat([*parts, text[last:]]))
    return rows
