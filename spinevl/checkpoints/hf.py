"""A model as LLaVA's architecture in transformers: it loads anywhere, without our code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.format import Checkpoint, only_written
from spinevl.checkpoints.interchange import (
    end_of_answers,
    write_config,
    write_generation_config,
    write_image_processor,
    write_json,
    write_tokenizer,
)
from spinevl.checkpoints.weights import unshared
from spinevl.config.option_names import option_of
from spinevl.io.tensors import WEIGHTS, write_tensors
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.held import Held
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.conversation import MEDMVL_SYSTEM
from spinevl.schema.errors import Problems, refused

IMAGE_TOKEN = "<image>"


class LlavaFormat:
    """See CheckpointFormat."""

    name = "hf"

    def detect(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """See CheckpointFormat."""
        return config.get("model_type") == "llava"

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        allowed: Allowed = OURS,
        held: Held | None = None,
    ) -> Checkpoint:
        """See CheckpointFormat."""
        raise only_written(folder, self.name)

    def parts(
        self, folder: Path, config: Mapping[str, Any], *, allowed: Allowed = OURS
    ) -> dict[str, Any]:
        """See CheckpointFormat."""
        raise only_written(folder, self.name)

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write a directory that ``LlavaForConditionalGeneration.from_pretrained`` loads.

        Its layout is that of the LLaVA checkpoints on the Hugging Face hub, which transformers 4,
        transformers 5 and vLLM read. The tokenizer gets ``<image>`` as a token of its own, which
        stands once for every visual token (``image_seq_length`` times for an image) in the
        model's input.

        Raises:
            UserError: a part that LLaVA does not have, before anything is written.
        """
        model = checkpoint.model
        merge_adapters(model)
        _require_llava(model, checkpoint.parts)
        end = end_of_answers(model)
        tokenizer, llm = model.llm.tokenizer, model.llm.model
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
        )
        image_id = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        if image_id >= llm.config.vocab_size:
            llm.resize_token_embeddings(image_id + 1, mean_resizing=False)
        tensors = {_hub_name(key): tensor for key, tensor in unshared(model).items()}
        write_tensors(folder / WEIGHTS, tensors)
        _write_config(folder, model, image_id=image_id, end=end)
        write_generation_config(folder, model)
        tokenizer.chat_template = _chat_template(model)
        write_tokenizer(folder, tokenizer)
        _write_processor(folder, model)


# our prefixes of weights -> those of the hub's LLaVA checkpoints
_HUB_PREFIXES = {
    "encoder.vision.vision_model.": "vision_tower.vision_model.",
    "encoder.vision.": "vision_tower.vision_model.",
    "connector.connector.0.": "multi_modal_projector.linear_1.",
    "connector.connector.2.": "multi_modal_projector.linear_2.",
    "llm.model.": "language_model.",
}


def _hub_name(key: str) -> str:
    """The name that a weight of ours has in a LLaVA checkpoint on the hub."""
    for ours, theirs in _HUB_PREFIXES.items():
        if key.startswith(ours):
            return theirs + key[len(ours) :]
    raise refused(
        "format=hf", "only weights that LLaVA has", f"the weight {key}", "take format=medmvl"
    )


def _write_config(folder: Path, model: VLM, *, image_id: int, end: int) -> None:
    from transformers import LlavaConfig

    encoder: Any = model.encoder
    text = model.llm.model.config
    text.eos_token_id = end
    config = LlavaConfig(
        vision_config=encoder.vision.config,
        text_config=text,
        image_token_index=image_id,
        image_seq_length=encoder.tokens,
        projector_hidden_act="gelu",
        vision_feature_layer=encoder.select_layer,
        vision_feature_select_strategy="default" if encoder.dropped else "full",
        tie_word_embeddings=text.tie_word_embeddings,
    )
    write_config(
        folder,
        config,
        architectures=["LlavaForConditionalGeneration"],
        dtype="float32",
        eos_token_id=end,
        ignore_index=-100,
    )


def _write_processor(folder: Path, model: VLM) -> None:
    """Write how images and text are prepared, in the files that the hub's checkpoints have."""
    encoder: Any = model.encoder
    write_image_processor(folder, encoder.processor)
    told = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": encoder.vision.config.patch_size,
        # tokens of the tower that are no patches, before any is dropped
        "num_additional_image_tokens": encoder.tokens + encoder.dropped - math.prod(encoder.grid),
        "vision_feature_select_strategy": "default" if encoder.dropped else "full",
    }
    write_json(folder / "processor_config.json", told)
    if template := model.llm.tokenizer.chat_template:
        write_json(folder / "chat_template.json", {"chat_template": template})


# a message's content may be a text, or a list of parts; TRL sends lists
_TEXTS_OF_PARTS = (
    "{% set told = namespace(messages=[]) %}{% for m in messages %}"
    "{% if m['content'] is string or m['content'] is not iterable %}"
    "{% set told.messages = told.messages + [m] %}"
    "{% else %}{% set text = namespace(all='') %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{% set text.all = text.all + '<image>\\n' %}"
    "{% else %}{% set text.all = text.all + part['text'] %}{% endif %}{% endfor %}"
    "{% set told.messages = told.messages + [dict(m, content=text.all)] %}"
    "{% endif %}{% endfor %}{% set messages = told.messages %}"
)


def _chat_template(model: VLM) -> str | None:
    """The template that the model was trained with; contents may be lists of parts."""
    llm = model.llm
    own = llm.tokenizer.chat_template
    if llm.conversation == "medmvl":
        own = _medmvl_template(llm.end_token or llm.tokenizer.eos_token)
    return _TEXTS_OF_PARTS + own if isinstance(own, str) else None


def _medmvl_template(end_token: str) -> str:
    """MedM-VL's conversation as a chat template; the system's sentence comes first."""
    return (
        f"{{{{ {json.dumps(MEDMVL_SYSTEM)} }}}}"
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        "USER: {{ m['content'] | trim }} ASSISTANT:"
        "{% elif m['role'] == 'assistant' %}"
        f" {{{{ m['content'] | trim }}}}{{{{ {json.dumps(end_token)} }}}}"
        "{% else %}"
        "{{ raise_exception('expected messages of user and assistant, found ' + m['role']) }}"
        "{% endif %}{% endfor %}"
    )


def _require_llava(model: VLM, parts: Mapping[str, Any]) -> None:
    """Raise UserError, with every reason, where LLaVA's architecture does not hold a model."""
    encoder, connector = model.encoder, model.connector
    head = model.llm.model.get_output_embeddings()
    problems, where = Problems(), "format=hf (LLaVA's architecture)"
    found = option_of("encoder", parts["encoder"])
    if len(model.vision_branches()) > 1 or encoder.modality != "image":
        found = " ".join(option_of("encoder", parts[one]) for one in parts if "encoder" in one)
        problems.add(where, "one encoder, of images", found, "take format=medmvl")
    elif not isinstance(encoder, HFVisionEncoder) or encoder.kind not in ("clip", "siglip"):
        problems.add(where, "encoder=clip or encoder=siglip", found, "train with one of them")
    if not isinstance(connector, MLPConnector) or len(connector.connector) != 3:
        found = option_of("connector", parts["connector"])
        if isinstance(connector, MLPConnector):
            found += f" connector.layers={len(connector.connector) // 2 + 1}"
        problems.add(where, "connector=mlp connector.layers=2", found, "train with it")
    if isinstance(head, nn.Linear) and head.bias is not None:
        found = f"{option_of('llm', parts['llm'])}, which has one"
        fix = "train with another llm, or take format=medmvl"
        problems.add(where, "an LLM without a bias on its output head", found, fix)
    problems.raise_any()
