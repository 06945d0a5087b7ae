"""What other versions of transformers need stands in the files, and this one reads it back.

``make check-exports`` loads the same exports with the other versions.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_cases import cases, random_model, write
from export_families import FAMILIES
from load_exports import Export
from safetensors.torch import load_file, save_file

from spinevl.checkpoints.interchange import TRIED
from spinevl.data.packing.conversation import Conversation

REPOSITORY = Path(__file__).resolve().parents[2]
RANDOM = {case.name: case for case in cases() if "golden" not in case.name}
LLM = {"medmvl": "llm", "hf": "", "peft": "base_model"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a case by its name, written once."""
    home = tmp_path_factory.mktemp("exports")

    def folder(name: str) -> Path:
        if not (home / name).is_dir():
            (home / name).mkdir()
            write(RANDOM[name], home / name)
        return home / name

    return folder


def read(*path: Path | str) -> dict[str, Any]:
    return dict(json.loads(Path(*path).read_text()))


def text_config(export: Path) -> dict[str, Any]:
    """The config of an export's LLM."""
    form = export.parent.name.partition("-")[0]
    told = read(export, LLM[form], "config.json")
    return told.get("text_config", told)


@pytest.mark.parametrize("name", RANDOM)
def test_this_version_reads_what_was_exported(written: Callable[[str], Path], name: str) -> None:
    export = Export(written(name))
    export.check()
    assert export.wrong == {}
    assert {"keys", "config", "ids", "logits", "answer"} <= set(export.done)


@pytest.mark.parametrize("name", RANDOM)
def test_both_spellings_say_the_same(written: Callable[[str], Path], name: str) -> None:
    told = text_config(written(name) / "export")
    rope = told["rope_parameters"]
    assert told["rope_theta"] == rope["rope_theta"]
    assert told.get("partial_rotary_factor", 1) == rope.get("partial_rotary_factor", 1)
    assert told["torch_dtype"] == told["dtype"] == "float32"
    scaling = told["rope_scaling"]
    if rope["rope_type"] == "default":
        assert scaling is None
    else:
        assert scaling.get("rope_type", scaling.get("type")) == rope["rope_type"]
        assert all(rope[key] == value for key, value in scaling.items() if key != "type")
        assert "factor" in scaling or "short_factor" in scaling
    assert "_name_or_path" not in told


@pytest.mark.parametrize("name", RANDOM)
def test_every_file_names_the_learned_end_token(written: Callable[[str], Path], name: str) -> None:
    folder = written(name)
    _, llm, encoder, conversation = name.split("-")
    model = random_model(llm, encoder, conversation, False, folder / "again").model
    words = Conversation(
        model.llm.tokenizer, template=model.llm.conversation, end_token=model.llm.end_token
    )
    made = words.exchange("?", "A.normal")
    end = made.symbols[made.learned[-1][1] - 1]
    assert end == words.answer_end() == read(folder, "expected.json")["end"]
    files = [*folder.glob("export/**/generation_config.json")]
    assert len(files) == {"medmvl": 2, "hf": 1, "peft": 2}[name.partition("-")[0]]
    files += [f for f in folder.glob("export/**/config.json") if "encoder" not in f.parent.name]
    assert {read(file)["eos_token_id"] for file in files} == {end}
    assert text_config(folder / "export")["eos_token_id"] == end
    generation = read(files[0])
    assert generation["do_sample"] is False
    assert "repetition_penalty" not in generation


@pytest.mark.parametrize("name", RANDOM)
def test_tokenizers_are_in_files_that_both_versions_read(
    written: Callable[[str], Path], name: str
) -> None:
    form, llm, *_ = name.split("-")
    export = written(name) / "export"
    family = FAMILIES[llm]
    for folder in {export, export / LLM[form]}:
        told = read(folder, "tokenizer_config.json")
        assert told["tokenizer_class"] == family.tokenizer_class
        assert "extra_special_tokens" not in told
        special = set(told["additional_special_tokens"]) if len(family.special) > 1 else set()
        assert special >= set(family.special[1:]) - {told["bos_token"]}
        added = {token["content"] for token in told["added_tokens_decoder"].values()}
        assert added >= set(family.special)
        model = read(folder, "tokenizer.json")["model"]
        assert all(isinstance(merge, str) for merge in model["merges"])
        byte_level = family.tokenizer_class != "PreTrainedTokenizerFast"
        assert (folder / "vocab.json").is_file() == byte_level
        if byte_level:
            assert read(folder, "vocab.json") == model["vocab"]
            lines = (folder / "merges.txt").read_text().splitlines()
            assert lines[1:] == model["merges"]
        if (folder / "chat_template.jinja").is_file():
            assert told["chat_template"] == (folder / "chat_template.jinja").read_text()


def test_llava_has_the_layout_of_the_hub(written: Callable[[str], Path]) -> None:
    for name in RANDOM:
        if not name.startswith("hf-"):
            continue
        export = written(name) / "export"
        prefixes = {".".join(key.split(".")[:2]) for key in load_file(export / "model.safetensors")}
        assert prefixes == {
            "vision_tower.vision_model",
            "multi_modal_projector.linear_1",
            "multi_modal_projector.linear_2",
            "language_model.model",
            *([] if "tied" in name else ["language_model.lm_head"]),
        }
        assert read(export, "config.json")["vision_config"]["model_type"].endswith("_vision_model")
        processor = read(export, "preprocessor_config.json")["image_processor_type"]
        assert processor in ("CLIPImageProcessor", "SiglipImageProcessor")
        assert read(export, "processor_config.json")["processor_class"] == "LlavaProcessor"
        template = read(export, "chat_template.json")["chat_template"]
        assert template == (export / "chat_template.jinja").read_text()


def drop_key(export: Path) -> None:
    tensors = load_file(export / "model.safetensors")
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, export / "model.safetensors", metadata={"format": "pt"})


def other_value(file: str, *keys: str, value: Any) -> Callable[[Path], None]:
    def change(export: Path) -> None:
        told = inner = read(export, file)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (export / file).write_text(json.dumps(told))

    return change


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (drop_key, "keys"),
        (
            other_value("config.json", "text_config", "rope_parameters", "rope_theta", value=1e4),
            "logits",
        ),
        (other_value("config.json", "text_config", "eos_token_id", value=0), "config"),
        (other_value("generation_config.json", "eos_token_id", value=1), "answer"),
        (other_value("preprocessor_config.json", "image_mean", value=[0.1, 0.1, 0.1]), "pixels"),
        (other_value("processor_config.json", "num_additional_image_tokens", value=0), "ids"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_comparison_finds_what_differs(
    tmp_path: Path, change: Callable[[Path], None], column: str
) -> None:
    write(RANDOM["hf-qwen2-clip-chat"], tmp_path)
    change(tmp_path / "export")
    export = Export(tmp_path)
    try:
        export.check()
    except ValueError:
        assert column == "ids"  # transformers counts the image's tokens itself
    assert column in export.wrong


def test_the_versions_are_those_that_the_package_claims() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (claim,) = [one for one in project["dependencies"] if one.startswith("transformers")]
    oldest = next(one for one in TRIED if one.startswith("5."))
    assert claim == f"transformers>={oldest.removesuffix('.0')},<6"
    assert f"transformers=={TRIED[-1]}" in (REPOSITORY / "constraints.txt").read_text().splitlines()
