"""Checkpoints in other programs' layouts: they say there what they say here."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.interchange import TRIED
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.medmvl import MedMVLFormat
from spinevl.checkpoints.native import save_checkpoint
from spinevl.config.compose import compose
from spinevl.config.plain import plain
from spinevl.data.packing.conversation import Conversation
from spinevl.models.assemble import assemble, tuned
from spinevl.models.merge import merge_adapters
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.stages import export
from spinevl.training.spec import TrainSpec

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": None}
TUNING = {"encoder": "frozen", "connector": "full", "llm": "lora", "lora": LORA}


def run(checkpoint: Path, out: Path, *overrides: str) -> Path:
    cfg = compose("export", [f"checkpoint={checkpoint}", *overrides])
    export.main(cfg, out=out)
    return out / str(cfg.format)


def adapted(shared: Path, combo: str, folder: Path) -> VLM:
    """A golden checkpoint with a LoRA that does something, saved as a training saves it."""
    golden = load_checkpoint(shared / "goldens" / combo / "checkpoint")
    torch.manual_seed(0)
    model = tuned(golden.model, TUNING)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_checkpoint(folder, Checkpoint(model.eval(), {**golden.parts, "tuning": TUNING}))
    return model


def prompt(model: VLM, *, image_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with the image's tokens among them, and pixels."""
    side = model.encoder.vision.config.image_size  # type: ignore[union-attr]
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    image = [image_id] * model.connector.tokens
    return torch.tensor([[5, 6, *image, 7, 8, 9, 10]]), pixels


@torch.inference_mode()
def ours(model: VLM, ids: torch.Tensor, pixels: torch.Tensor, image_id: int) -> torch.Tensor:
    text = model.llm.embed(ids.masked_fill(ids == image_id, 0))
    text[ids == image_id] = model.visual_tokens(pixels).flatten(0, 1)
    return model.llm.model(inputs_embeds=text).logits


@pytest.mark.parametrize(
    "combo", ["clip_mlp_qwen2", "clip_mlp_qwen2_tied", "siglip_mlp_llama3", "clipfull_mlp_phi"]
)
def test_medmvl_loads_again_bit_equal(shared: Path, tmp_path: Path, combo: str) -> None:
    golden = shared / "goldens" / combo / "checkpoint"
    folder = run(golden, tmp_path)
    before, after = load_checkpoint(golden).model, load_checkpoint(folder).model
    for (name, one), other in zip(
        before.state_dict().items(), after.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    written = load_file(folder / "model.safetensors")
    for name, tensor in load_file(golden / "model.safetensors").items():
        assert torch.equal(written.pop(name), tensor), name
    assert set(written) <= {"llm.lm_head.weight"}  # which a tied checkpoint may lack
    config = json.loads((folder / "config.json").read_text())
    original = json.loads((golden / "config.json").read_text())
    same = set(original) - {"transformers_version", "lvlm_llm_initializer_range"}
    for key in same - {k for k in same if k.endswith("name_or_path")}:
        assert config[key] == original[key], key


def test_medmvl_merges_adapters(shared: Path, tmp_path: Path) -> None:
    model = adapted(shared, "clip_mlp_qwen2", tmp_path / "checkpoint")
    ids, pixels = prompt(model, image_id=11)
    wanted = ours(model, ids, pixels, 11)
    again = load_checkpoint(run(tmp_path / "checkpoint", tmp_path)).model
    assert not [name for name in again.state_dict() if "lora" in name]
    torch.testing.assert_close(ours(again, ids, pixels, 11), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("combo", ["clip_mlp_qwen2", "clip_mlp_qwen2_tied", "siglip_mlp_llama3"])
def test_hf_is_a_llava_that_transformers_loads_alone(
    shared: Path, tmp_path: Path, combo: str
) -> None:
    from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor

    model = adapted(shared, combo, tmp_path / "checkpoint")
    folder = run(tmp_path / "checkpoint", tmp_path, "format=hf", "license=apache-2.0")
    llava, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    assert llava.config.image_token_id == image_id
    assert tokenizer("a<image>b", add_special_tokens=False)["input_ids"].count(image_id) == 1
    ids, pixels = prompt(model, image_id=image_id)
    with torch.inference_mode():
        theirs = llava.eval()(input_ids=ids, pixel_values=pixels).logits
    wanted = ours(model, ids, pixels, image_id)
    torch.testing.assert_close(theirs[..., : wanted.shape[-1]], wanted, atol=1e-5, rtol=0)
    # the processor writes what we write
    processor = LlavaProcessor.from_pretrained(folder)
    grey = Image.fromarray(np.full((50, 40), 90, np.uint8)).convert("RGB")
    content = [{"type": "image"}, {"type": "text", "text": "How is C3?"}]
    written = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    made = processor(images=grey, text=written, return_tensors="pt")
    llm = model.llm
    conversation = Conversation(llm.tokenizer, template=llm.conversation, end_token=llm.end_token)
    sequence = conversation.prompt("<image>\nHow is C3?")
    spelled = []
    for symbol in sequence.symbols:
        spelled += [symbol] if symbol >= 0 else [image_id] * model.connector.tokens
    assert made["input_ids"][0].tolist() == spelled
    assert torch.equal(made["pixel_values"][0], model.encoder.transform(np.asarray(grey)))
    rights = folder.stat().st_mode & 0o666  # the umask's, as the folder has them
    assert oct((folder / "model.safetensors").stat().st_mode & 0o777) == oct(rights)
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "pipeline_tag: image-text-to-text" in text
    assert "| llm | HFCausalLM" in text
    assert "not stated |" in text  # of the encoder and the LLM
    assert all(version in text for version in TRIED)


def test_peft_adds_the_adapter_to_its_base(shared: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapted(shared, "clip_mlp_qwen2", tmp_path / "checkpoint")
    rewrite(tmp_path / "checkpoint", pretrained=True)
    folder = run(tmp_path / "checkpoint", tmp_path, "format=peft")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    base = load_checkpoint(shared / "goldens/clip_mlp_qwen2/checkpoint").model.llm.model
    with torch.inference_mode():
        wanted = model.llm.model(ids).logits
        plain = base(ids).logits
        theirs = PeftModel.from_pretrained(base, folder).eval()(ids).logits
    assert (wanted - plain).abs().max() > 0.01
    torch.testing.assert_close(theirs, wanted, atol=1e-5, rtol=0)
    # the encoder and the LLM are where their paths say
    assert not (folder / "base_model").exists()
    rest = load_file(folder / "rest.safetensors")
    assert set(rest) == {name for name in model.state_dict() if name.startswith("connector")}


@pytest.mark.parametrize(
    "change", [{"parent": "there", "pretrained": True}, {"pretrained": False}], ids=str
)
def test_peft_brings_whatever_is_found_nowhere_else(
    shared: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """A part that an earlier training changed, or that began at random, would be lost."""
    from transformers import AutoModelForCausalLM

    model = adapted(shared, "clip_mlp_qwen2", tmp_path / "checkpoint")
    rewrite(tmp_path / "checkpoint", **change)
    folder = run(tmp_path / "checkpoint", tmp_path / "out", "format=peft")
    base = AutoModelForCausalLM.from_pretrained(folder / "base_model").eval().state_dict()
    golden = load_checkpoint(shared / "goldens/clip_mlp_qwen2/checkpoint").model
    for name, tensor in golden.llm.model.state_dict().items():
        assert torch.equal(base[name], tensor), name
    rest = load_file(folder / "rest.safetensors")
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("llm.")}
    assert set(rest) == set(own)
    assert all(torch.equal(rest[name], tensor) for name, tensor in own.items())
    if "parent" in change:
        assert "| started from | there |" in (folder / "README.md").read_text()


def rewrite(folder: Path, *, pretrained: bool, **fields: Any) -> None:
    """Say in a checkpoint's config where its encoder and LLM came from."""
    config = json.loads((folder / "config.json").read_text())
    for part in ("encoder", "llm"):
        config["parts"][part]["pretrained"] = pretrained
    (folder / "config.json").write_text(json.dumps(config | fields))


def test_merging_a_checkpoint_changes_no_answer(shared: Path, tmp_path: Path) -> None:
    model = adapted(shared, "siglip_mlp_llama3", tmp_path / "checkpoint")
    again = load_checkpoint(tmp_path / "checkpoint").model
    assert merge_adapters(again) == 21
    ids, pixels = prompt(model, image_id=11)
    torch.testing.assert_close(
        ours(again, ids, pixels, 11), ours(model, ids, pixels, 11), atol=1e-5, rtol=0
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = TrainSpec.from_config(plain(compose("train", ["llm.width=32", "encoder.dim=16"])))
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    parts = {**spec.parts, "tuning": asdict(spec.tuning)}
    save_checkpoint(folder, Checkpoint(assemble(parts), parts))
    return folder


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            "medmvl",
            r"found llm\.conversation=chat.*\n.*encoder=clip or .*found encoder=tiny.*\n"
            r".*found llm=tiny, qwen2",
        ),
        ("hf", r"expected encoder=clip or encoder=siglip, found encoder=tiny"),
        ("peft", "the LLM has no LoRA adapter"),
    ],
)
def test_what_another_program_lacks_is_refused_and_nothing_is_left(
    tiny: Path, tmp_path: Path, form: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(tiny, tmp_path, f"format={form}")
    assert list(tmp_path.iterdir()) == []


def test_an_export_overwrites_nothing(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    golden = shared / "goldens/clip_mlp_qwen2/checkpoint"
    with pytest.raises(UserError, match="expected a new or empty folder, found files in it"):
        run(golden, tmp_path, f"output_dir={tmp_path}/there")


def test_an_export_that_was_cut_at_its_end_is_finished(shared: Path, tmp_path: Path) -> None:
    golden = shared / "goldens/clip_mlp_qwen2/checkpoint"
    (tmp_path / "medmvl").mkdir()
    (tmp_path / "medmvl/cut").touch()
    folder = run(golden, tmp_path)
    assert not (folder / "cut").exists()
    assert (folder / "README.md").exists()


@pytest.mark.parametrize(
    ("combo", "change", "message"),
    [
        ("medmclip_spatial_qwen2", lambda m: setattr(m.connector, "pool", 4), r"connector\.pool=4"),
        (
            "siglip_slices_attn_qwen2",
            lambda m: setattr(m.encoder, "slices", 8),
            r"slices=32, .*slices=8",
        ),
        (
            "siglip_slices_attn_qwen2",
            lambda m: setattr(m.connector.attn, "num_heads", 2),
            r"connector\.heads=8, .*heads=2",
        ),
        (
            "siglip_slices_attn_qwen2",
            lambda m: setattr(m.connector, "tokens", 3),
            r"connector\.tokens=null, .*tokens=3",
        ),
    ],
)
def test_what_medmvl_cannot_say_is_refused(
    shared: Path, tmp_path: Path, combo: str, change: Any, message: str
) -> None:
    checkpoint = load_checkpoint(shared / "goldens" / combo / "checkpoint")
    MedMVLFormat().write(tmp_path, checkpoint)
    change(checkpoint.model)
    with pytest.raises(UserError, match=message):
        MedMVLFormat().write(tmp_path, checkpoint)


def test_a_checkpoint_runs_no_code_and_builds_no_function(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    written = {"_target_": "spinevl.models.tokenizer.learn", "folder": str(tmp_path / "out")}
    for part in ("encoder", "connector", "llm"):
        bad = config | {"parts": config["parts"] | {part: written}}
        (folder / "config.json").write_text(json.dumps(bad))
        said = rf"^{part}: spinevl\.models\.tokenizer\.learn is not a class"
        with pytest.raises(UserError, match=said):
            load_checkpoint(folder)
    other = config | {"parts": config["parts"] | {"encoder": config["parts"]["llm"]}}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"^encoder: .* is not an encoder"):
        load_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({"format": config["format"]}))
    with pytest.raises(UserError, match="file is damaged"):
        load_checkpoint(folder)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_cannot_switch_on_the_code_that_comes_with_a_model(
    shared: Path, tmp_path: Path
) -> None:
    adapted(shared, "clip_mlp_qwen2", tmp_path / "checkpoint")
    file = tmp_path / "checkpoint/config.json"
    config = json.loads(file.read_text())
    config["parts"]["llm"]["trust_remote_code"] = True
    file.write_text(json.dumps(config))
    described = tmp_path / "checkpoint/llm/config.json"
    llm = json.loads(described.read_text())
    llm |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.E"},
    }
    described.write_text(json.dumps(llm))
    mark = tmp_path / "ran"
    (tmp_path / "checkpoint/llm/evil.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises((UserError, ValueError)):
        load_checkpoint(tmp_path / "checkpoint")
    assert not mark.exists()
