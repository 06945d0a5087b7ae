"""A model as LLaVA's architecture in transformers: it loads anywhere, without our code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spinevl.build.allowlist import OURS, Allowed
from spinevl.checkpoints.format import Checkpoint, config_of, only_written
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder.hf import HFVisionEncoder
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.conversation import MEDMVL_SYSTEM
from spinevl.schema.errors import UserError

IMAGE_TOKEN = "<image>"


class LlavaFormat:
    """See CheckpointFormat."""

    name = "hf"

    def detect(self, folder: Path) -> bool:
        """See CheckpointFormat."""
        return config_of(folder).get("model_type") == "llava"

    def read(self, folder: Path, *, allowed: Allowed = OURS) -> Checkpoint:
        """See CheckpointFormat."""
        raise only_written(folder, self.name)

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write a directory that ``LlavaForConditionalGeneration.from_pretrained`` loads.

        The tokenizer gets ``<image>`` as a token of its own, which stands once for every visual
        token (``image_seq_length`` times for an image) in the model's input.

        Raises:
            UserError: a part that LLaVA does not have, before anything is written.
        """
        from transformers import LlavaProcessor

        model = checkpoint.model
        merge_adapters(model)
        _require_llava(model)
        encoder: Any = model.encoder
        tokenizer = model.llm.tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
        llava = _llava(model, image_id=int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)))
        llava.save_pretrained(folder)
        if model.llm.conversation == "medmvl":
            tokenizer.chat_template = _medmvl_template(model.llm.end_token or tokenizer.eos_token)
        LlavaProcessor(
            image_processor=encoder.processor,
            tokenizer=tokenizer,
            patch_size=encoder.vision.config.patch_size,
            vision_feature_select_strategy=llava.config.vision_feature_select_strategy,
            num_additional_image_tokens=encoder.dropped,
            chat_template=tokenizer.chat_template,
        ).save_pretrained(folder)


def _llava(model: VLM, *, image_id: int) -> Any:
    """The same modules as a ``LlavaForConditionalGeneration``, with an embedding of ``<image>``."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    encoder: Any = model.encoder
    llm = model.llm.model
    if image_id >= llm.config.vocab_size:
        llm.resize_token_embeddings(image_id + 1, mean_resizing=False)
    config = LlavaConfig(
        vision_config=encoder.vision.config,
        text_config=llm.config,
        image_token_index=image_id,
        image_seq_length=encoder.tokens,
        projector_hidden_act="gelu",
        vision_feature_layer=encoder.select_layer,
        vision_feature_select_strategy="default" if encoder.dropped else "full",
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    projector: Any = model.connector.connector
    llava.model.vision_tower = encoder.vision
    llava.model.multi_modal_projector.linear_1 = projector[0]
    llava.model.multi_modal_projector.linear_2 = projector[2]
    llava.model.language_model = llm.base_model
    llava.lm_head = llm.get_output_embeddings()
    return llava


def _medmvl_template(end_token: str) -> str:
    """MedM-VL's conversation as a chat template; the system's sentence comes first."""
    content = (
        "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}"
        "{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] | trim }}{% endif %}"
        "{% endfor %}{% endif %}"
    )
    return (
        f"{{{{ {json.dumps(MEDMVL_SYSTEM)} }}}}"
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        f"USER: {content} ASSISTANT:"
        "{% else %}"
        f" {content}{{{{ {json.dumps(end_token)} }}}}"
        "{% endif %}{% endfor %}"
    )


def _require_llava(model: VLM) -> None:
    """Raise UserError where a model is not what LLaVA's architecture holds."""
    encoder, connector = model.encoder, model.connector
    head = model.llm.model.get_output_embeddings()
    found = None
    if len(model.vision_branches()) > 1 or encoder.modality != "image":
        found = "an encoder of volumes"
    elif not isinstance(encoder, HFVisionEncoder) or encoder.kind not in ("clip", "siglip"):
        found = f"the encoder {getattr(encoder, 'kind', type(encoder).__name__)}"
    elif not isinstance(connector, MLPConnector) or len(connector.connector) != 3:
        found = "a connector that is not mlp with two layers"
    elif isinstance(head, nn.Linear) and head.bias is not None:
        found = f"a {model.llm.model.config.model_type} LLM, whose output head has a bias"
    if found:
        raise UserError(
            "format=hf writes LLaVA's architecture: an encoder clip or siglip, connector=mlp with "
            f"two layers, an LLM without a bias on its head; this checkpoint has {found}"
        )
