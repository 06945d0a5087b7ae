"""MedM-VL's checkpoints against what MedM-VL itself computed with them.

Reached on one machine: ids, labels and greedy tokens equal, pixels equal, connector output, logits
and losses to 2e-6; the tolerance here leaves room for other processors.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from spinevl.checkpoints.load import load_checkpoint
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.image_input import BatchImages
from spinevl.data.packing.prompts import lay_out_prompts
from spinevl.inference.encode import visual_rows_of
from spinevl.io.volume_file import load_volume
from spinevl.models.generate import greedy
from spinevl.models.splice import splice
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import ImageRef

COMBOS_2D = ["clip_mlp_qwen2", "clip_mlp_qwen2_tied", "siglip_mlp_llama3", "clipfull_mlp_phi"]
COMBOS_3D = ["siglip_slices_attn_qwen2", "medmclip_spatial_qwen2"]
# Its golden answers come from the model as it left training, which still had its base LLM's
# generation settings; upstream's own inference from a checkpoint never has them.
PENALTY = {"clip_mlp_qwen2_tied": 1.05}


def _collator(model: VLM, shared: Path) -> Collator:
    """Of the goldens' images: any colour image as RGB, volumes windowed."""

    def decode(image: ImageRef) -> np.ndarray:
        file = shared / "goldens/data" / image.path
        if image.modality == "image3d":
            return load_volume(file)
        return np.asarray(Image.open(file).convert("RGB"))

    return Collator(model.inputs(), ImageStore(decode))


def _loaded(shared: Path, combo: str) -> tuple[VLM, dict[str, Any], dict[str, torch.Tensor]]:
    folder = shared / "goldens" / combo
    model = load_checkpoint(folder / "checkpoint").model
    golden = json.loads((folder / "golden.json").read_text())
    return model, golden, load_file(folder / "golden.safetensors")


def _rounds(turns: list[dict[str, str]]) -> list[tuple[str, str | None]]:
    values = [turn["value"] for turn in turns]
    return list(zip(values[::2], values[1::2], strict=True))


def _waiting(turns: list[dict[str, str]]) -> list[tuple[str, str | None]]:
    """The conversation without its last answer."""
    *before, (question, _) = _rounds(turns)
    return [*before, (question, None)]


@torch.inference_mode()
@pytest.mark.parametrize("combo", [*COMBOS_2D, *COMBOS_3D])
def test_a_checkpoint_computes_what_upstream_computed(shared: Path, combo: str) -> None:
    model, golden, tensors = _loaded(shared, combo)
    (modality,) = model.vision_branches()
    collate = _collator(model, shared)
    conversation = collate.conversation
    for number, one in enumerate(golden["conversations"]):
        images = [ImageRef(name, modality=modality) for name in one["files"]]
        made = conversation.dialogue(_rounds(one["conversations"]))
        place = -200 if modality == "image" else -201
        ids = [token if token >= 0 else place for token in made.symbols]
        assert ids == one["input_ids_train"]
        labels = [-100] * len(ids)
        for start, stop in made.learned:
            labels[start:stop] = ids[start:stop]
        assert labels == one["labels_train"]

        unique = list(dict.fromkeys(images))
        pixels, _ = collate.inputs[modality](unique)
        if combo == "medmclip_spatial_qwen2":  # z-scored with more digits than are published
            golden_pixels = tensors[f"c{number}.pixels0_strided"]
            torch.testing.assert_close(
                pixels[0][:, ::4, ::8, ::8], golden_pixels, atol=1e-5, rtol=0
            )
        else:
            shas = [
                hashlib.sha256(row.contiguous().numpy().tobytes()).hexdigest() for row in pixels
            ]
            wanted = [stats["sha256"] for stats in one["pixels"]]
            assert shas == list(dict.fromkeys(wanted))
        visual = model.visual_tokens(pixels)
        by_image = dict(zip(unique, visual, strict=True))
        shown = torch.stack([by_image[image] for image in images])
        kept = tensors[f"c{number}.connector_out"]  # of volumes every eighth token
        _close(shown[:, :: shown.shape[1] // kept.shape[1]], kept)

        whole = _rounds(one["conversations"])
        symbols, rows, learned = _expanded(collate, whole, images)
        assert len(symbols) == one["merged_len"]
        hidden = _plain_hidden(model, symbols, rows, visual)
        logits = model.llm.logits(hidden)
        if f"c{number}.logits" in tensors:
            _close(logits[None], tensors[f"c{number}.logits"])
        else:
            _close(logits[None, ::4, :96], tensors[f"c{number}.logits_s4_v96"])
        _close(logits[None, -1], tensors[f"c{number}.logits_last"])
        scored = [i for start, stop in learned for i in range(start, stop)]
        targets = torch.from_numpy(symbols[scored])
        loss = torch.nn.functional.cross_entropy(logits[[i - 1 for i in scored]], targets)
        assert float(loss) == pytest.approx(one["loss"], abs=1e-5)

        prompt = _waiting(one["conversations"])
        waiting = conversation.dialogue(prompt)
        assert [t if t >= 0 else place for t in waiting.symbols] == one["input_ids_eval"]
        symbols, rows, _ = _expanded(collate, prompt, images)
        (answer,) = greedy(
            model,
            prompts=lay_out_prompts([(symbols, rows)], steps=16),
            visual_rows=visual.flatten(0, 1),
            end_id=conversation.end_id,
            max_new_tokens=16,
            repetition_penalty=PENALTY.get(combo, 1.0),
        )
        wanted = one["generate16"]
        assert answer == (wanted[:-1] if wanted[-1] == conversation.end_id else wanted)


@torch.inference_mode()
@pytest.mark.parametrize("combo", COMBOS_2D)
def test_a_batch_answers_as_upstreams_batch(shared: Path, combo: str) -> None:
    model, golden, _ = _loaded(shared, combo)
    (modality,) = model.vision_branches()
    collate = _collator(model, shared)
    conversation = collate.conversation
    for batch in golden["batches"]:
        of_batch = BatchImages(collate.inputs)
        prompts = []
        for item in batch["items"]:
            one = golden["conversations"][item]
            prompt = _waiting(one["conversations"])
            images = [ImageRef(name, modality=modality) for name in one["files"]]
            prompts.append(np.array(of_batch.expand(conversation.dialogue(prompt), images)[0]))
        answers = greedy(
            model,
            prompts=lay_out_prompts(
                [(prompt, of_batch.rows(prompt)) for prompt in prompts], steps=16
            ),
            visual_rows=visual_rows_of(model, of_batch),
            end_id=conversation.end_id,
            max_new_tokens=16,
            repetition_penalty=PENALTY.get(combo, 1.0),
        )
        for answer, wanted in zip(answers, batch["eval"]["generate16_left"], strict=True):
            stop = wanted.index(conversation.end_id) if conversation.end_id in wanted else None
            assert answer == wanted[:stop]


def _close(ours: torch.Tensor, golden: torch.Tensor) -> None:
    torch.testing.assert_close(ours, golden, atol=1e-4, rtol=0)


def _expanded(
    collate: Collator, rounds: list[tuple[str, str | None]], images: list[ImageRef]
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], ...]]:
    of_batch = BatchImages(collate.inputs)
    symbols, learned = of_batch.expand(collate.conversation.dialogue(rounds), images)
    array = np.array(symbols)
    return array, of_batch.rows(array), learned


def _plain_hidden(
    model: VLM, symbols: np.ndarray, rows: np.ndarray, visual: torch.Tensor
) -> torch.Tensor:
    """The last hidden state [L, D] of one sequence through transformers' own attention."""
    ids = torch.from_numpy(symbols).clamp(min=0)[None]
    text = model.llm.embed(ids)
    embeddings = splice(text, visual.flatten(0, 1), torch.from_numpy(rows)[None])
    model.llm.model.set_attn_implementation("sdpa")
    hidden = model.llm.model.base_model(inputs_embeds=embeddings).last_hidden_state[0]
    model.llm.use_prefix_attention()
    return hidden


def _copy(shared: Path, combo: str, tmp_path: Path) -> Path:
    """A checkpoint that may be changed, its bases beside it as before."""
    goldens = shared / "goldens"
    shutil.copytree(goldens / combo / "checkpoint", tmp_path / combo / "checkpoint")
    (tmp_path / "models").symlink_to(goldens / "models")
    folder = tmp_path / combo / "checkpoint"
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)
    return folder


def _same(one: VLM, other: VLM) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_sharded_checkpoint_loads_the_same(shared: Path, tmp_path: Path) -> None:
    folder = _copy(shared, "clip_mlp_qwen2", tmp_path)
    whole = load_checkpoint(folder).model
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    _same(whole, load_checkpoint(folder).model)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: expected safetensors"):
        load_checkpoint(folder)


def test_the_older_generation_of_configs_loads_the_same(shared: Path, tmp_path: Path) -> None:
    folder = _copy(shared, "clip_mlp_qwen2", tmp_path)
    whole = load_checkpoint(folder).model
    config = json.loads((folder / "config.json").read_text())
    older = {re.sub("^lvlm_", "", key): value for key, value in config.items()}
    base = tmp_path / "models/llm_qwen2/config.json"
    older["llm_config"] = json.loads(base.read_text())
    (folder / "config.json").write_text(json.dumps(older))
    _same(whole, load_checkpoint(folder).model)


def test_a_tied_head_is_tied_where_the_file_lacks_it_and_free_where_it_differs(
    shared: Path, tmp_path: Path
) -> None:
    folder = _copy(shared, "clip_mlp_qwen2_tied", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    assert "llm.lm_head.weight" not in tensors
    tied = load_checkpoint(folder).model
    llm = tied.llm.model
    assert llm.get_output_embeddings().weight is llm.get_input_embeddings().weight
    tensors["llm.lm_head.weight"] = tensors["llm.model.embed_tokens.weight"] + 1
    save_file(tensors, folder / "model.safetensors")
    free = load_checkpoint(folder).model
    assert torch.equal(free.llm.model.get_output_embeddings().weight, tensors["llm.lm_head.weight"])
    tensors["llm.lm_head.weight"] = tensors["llm.model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    both = load_checkpoint(folder).model  # as a DeepSpeed save has it
    llm = both.llm.model
    assert llm.get_output_embeddings().weight is llm.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("connector_image.connector.0.bias"), "1 connector weights missing, first"),
        (lambda t: t.update({"stray.weight": torch.ones(1)}), "1 weights of no part, first stray"),
        (
            lambda t: t.update({"llm.model.norm.weight": torch.ones(3)}),
            "1 llm weights of another shape, first llm.model.model.norm.weight",
        ),
    ],
)
def test_keys_that_do_not_fit_are_grouped(
    shared: Path, tmp_path: Path, change: Any, message: str
) -> None:
    folder = _copy(shared, "clip_mlp_qwen2", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=re.escape(message)):
        load_checkpoint(folder)


def test_a_pickle_is_not_read(shared: Path, tmp_path: Path) -> None:
    folder = _copy(shared, "clip_mlp_qwen2", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model\.bin, a pickle, which is not read"):
        load_checkpoint(folder)


def test_an_unknown_part_is_named(shared: Path, tmp_path: Path) -> None:
    folder = _copy(shared, "clip_mlp_qwen2", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"lvlm_llm_type": "gpt5"}))
    with pytest.raises(UserError, match=r"llm_type: expected qwen2, .* found 'gpt5'"):
        load_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(config | {"lvlm_llm_max_length": "x"}))
    with pytest.raises(UserError, match="llm_max_length: expected a whole number, found 'x'"):
        load_checkpoint(folder)
