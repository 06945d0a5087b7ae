"""MedM-VL's checkpoints, read and written: their weights under our names, and back.

Source: https://github.com/MSIIP/MedM-VL.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spinevl.build.allowlist import OURS, Allowed
from spinevl.build.build import build_stored
from spinevl.checkpoints.bounded import sized_by
from spinevl.checkpoints.format import CONFIG, Checkpoint
from spinevl.checkpoints.interchange import (
    end_of_answers,
    write_config,
    write_generation_config,
    write_image_processor,
    write_json,
    write_tokenizer,
)
from spinevl.checkpoints.medmvl_config import config_from, parts_from, sides_of
from spinevl.checkpoints.weights import fill, unshared
from spinevl.io.tensors import WEIGHTS, StoredTensors, stored_tensors, write_tensors
from spinevl.models.assemble import assemble
from spinevl.models.held import Held
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError

# what a 3D encoder's checkpoint holds besides its image tower
_UNUSED = re.compile(
    r"encoder_image3d\.encoder\."
    r"((text_encoder|language_encoder|mm_vision_proj|mm_language_proj)\..*|logit_scale)"
)


class MedMVLFormat:
    """See CheckpointFormat."""

    name = "medmvl"

    def detect(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """See CheckpointFormat."""
        return config.get("model_type") == "lvlm"

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        allowed: Allowed = OURS,
        held: Held | None = None,
    ) -> Checkpoint:
        """See CheckpointFormat."""
        parts = self.parts(folder, config, allowed=allowed)
        stored = stored_tensors(folder)
        with sized_by(stored.shapes, folder):
            model = assemble(
                parts, build=functools.partial(build_stored, allowed=allowed), held=held
            )
        stored = _under_our_names(stored, model, where=str(folder))
        fill(model, _tied(model.llm.model, stored), where=str(folder))
        return Checkpoint(model.eval(), parts, folder=folder)

    def parts(
        self, folder: Path, config: Mapping[str, Any], *, allowed: Allowed = OURS
    ) -> dict[str, Any]:
        """See CheckpointFormat."""
        return parts_from(config, folder)

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write ``config.json``, ``model.safetensors`` and the base directories.

        The base LLM's and encoders' configs, tokenizer and image processor go into ``llm/``,
        ``encoder_image/`` and ``encoder_image3d/``, and the config names them so: MedM-VL finds
        them with the checkpoint as its working directory. The output head is written even where it
        is tied, for upstream's reload leaves a missing one random.

        Raises:
            UserError: a part that MedM-VL does not have, before anything is written.
        """
        model = checkpoint.model
        merge_adapters(model)
        config, end = config_from(model, checkpoint.parts), end_of_answers(model)
        # two of MedM-VL's prefixes may be one of ours: the first is written
        back = {ours: theirs for theirs, ours in reversed(_prefixes(model).items())}
        tensors = {_renamed(key, back): tensor for key, tensor in unshared(model).items()}
        tensors.setdefault("llm.lm_head.weight", tensors["llm.model.embed_tokens.weight"].clone())
        write_tensors(folder / WEIGHTS, tensors)
        write_config(folder / "llm", model.llm.model.config, eos_token_id=end)
        write_json(folder / CONFIG, {**config, "eos_token_id": end})
        for place in (folder, folder / "llm"):
            write_generation_config(place, model)
            write_tokenizer(place, model.llm.tokenizer)
        for side, branch in sides_of(model).items():
            _describe(branch.encoder, folder / f"encoder_{side}")


def _describe(encoder: Any, folder: Path) -> None:
    """Write the base directory of an encoder."""
    if not hasattr(encoder, "vision"):
        encoder.save_description(folder)
        return
    write_config(folder, encoder.vision.config)
    write_image_processor(folder, encoder.processor)


def _under_our_names(stored: StoredTensors, model: VLM, *, where: str) -> StoredTensors:
    """Weights of MedM-VL's names under ours. Raises UserError for those of no part."""
    prefixes = _prefixes(model)
    used = [key for key in stored if not _UNUSED.fullmatch(key)]
    if surplus := [key for key in used if not key.startswith(tuple(prefixes))]:
        raise UserError(
            f"{where}: {len(surplus)} weights of no part, first {surplus[0]}; expected "
            f"{', '.join(prefixes)}"
        )
    return stored.under({_renamed(key, prefixes): key for key in used})


def _prefixes(model: VLM) -> dict[str, str]:
    """MedM-VL's prefix of weights -> ours; a longer one stands before its own beginning."""
    prefixes = {"llm.": "llm.model."}
    for (side, branch), suffix in zip(sides_of(model).items(), ("", "3d"), strict=False):
        tower = "vision." if hasattr(branch.encoder, "vision") else ""
        if tower:
            # later versions of transformers name the tower's weights without vision_model
            prefixes[f"encoder_{side}.encoder.vision_model."] = f"encoder{suffix}.vision."
        prefixes[f"encoder_{side}.encoder."] = f"encoder{suffix}.{tower}"
        prefixes[f"connector_{side}."] = f"connector{suffix}."
    return prefixes


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """A key with its prefix replaced by the other one."""
    old = next(one for one in prefixes if key.startswith(one))
    return prefixes[old] + key[len(old) :]


def _tied(llm: Any, stored: StoredTensors) -> StoredTensors:
    """Tie the output head where the file lacks it, and untie it where it holds another.

    Returns:
        The weights without the head, if that is tied.
    """
    head, embedding = "llm.model.lm_head.weight", "llm.model.model.embed_tokens.weight"
    tied = head not in stored or (
        llm.config.tie_word_embeddings
        and embedding in stored
        and torch.equal(stored[head], stored[embedding])
    )
    output = llm.get_output_embeddings()
    if tied:
        stored = stored.under({key: key for key in stored if key != head})
        output.weight = llm.get_input_embeddings().weight
    elif output.weight is llm.get_input_embeddings().weight:
        output.weight = nn.Parameter(output.weight.detach().clone())
    llm.config.tie_word_embeddings = tied
    return stored
